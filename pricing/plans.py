"""Plans: what a tenant pays for a month, as lines of a statement. Usage totals in, lines out.

A plan has a base fee, charges and a commitment, and any of them may be missing. A charge meters one quantity
of the month's usage, of which some may be included, and prices what is over it. Usage that a charge meters is
paid through that charge. The rest is paid at its rated price, or is included in the fee.

Several charges may meter the same usage, say its input and its output tokens. Only billable usage counts.
Amounts are USD with 12 decimal places; a line is rounded half-even once, and sums of lines are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from enum import Enum

from pricing.money import from_pico, quantize, to_pico

_ZERO = Decimal(0)
# Of our own: the thread's context, which an application may have set to anything, would change an amount.
_EXACT = Context(prec=100, traps=[Inexact])


class LineKind(str, Enum):
    """What a line of a statement is. A closed list: add, never rename."""

    BASE_FEE = "base_fee"
    USAGE = "usage"
    INCLUDED = "included"
    OVERAGE = "overage"
    ADJUSTMENT = "adjustment"
    TRUE_UP = "true_up"
    CREDITS_BURNED = "credits_burned"
    CREDITS_EXPIRED = "credits_expired"
    ROUNDING = "rounding"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """A month's billable usage of one model by one feature: compute `credits`, and `price` in rated USD."""

    feature_id: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    credits: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: `amount` is what it adds to the total, zero where a line only informs.

    `usage` belongs to lines of usage, `quantity` and its `unit` to those that count something. `unit_price`
    is USD a unit, None where the amount is not a product.
    """

    kind: LineKind
    text: str
    amount: Decimal
    usage: UsageTotal | None = None
    quantity: Decimal | None = None
    unit: str = ""
    unit_price: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """`unit_price` USD for each unit up to and including `up_to`, and `flat_fee` USD once the tier is used.

    `up_to` None: no end.
    """

    unit_price: Decimal
    up_to: Decimal | None = None
    flat_fee: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit costs what the tier says in which it lies. `up_to` ascends; only the last tier has none."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """All units cost what the tier says in which the last of them lies. Tiers as in `Graduated`."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """`price` USD for every `size` units that were begun."""

    size: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What is metered (a key of `QUANTITIES`), how much of it is included, and what the rest costs.

    Tiers and packages count from what is included on. `feature` and `model` restrict what is metered; None
    means all.
    """

    quantity: str
    scale: Graduated | Volume | Package
    included: Decimal = _ZERO
    feature: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Commitment:
    """`amount` USD that the fees and usage of so many `months` come to at least; a true-up adds the rest."""

    amount: Decimal
    months: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a tenant pays. `usage` says what usage costs that no charge meters: "rated" or "included"."""

    base_fee: Decimal = _ZERO
    usage: str = "rated"
    charges: tuple[Charge, ...] = ()
    commitment: Commitment | None = None


PURE_USAGE = Plan()
"""Usage at its rated price and nothing else: the plan of a tenant to whom none was given."""

QUANTITIES: dict[str, Callable[[UsageTotal], Decimal]] = {
    "price": lambda total: total.price,
    "input_tokens": lambda total: Decimal(total.input_tokens),
    "output_tokens": lambda total: Decimal(total.output_tokens),
    "total_tokens": lambda total: Decimal(total.input_tokens + total.output_tokens),
    "requests": lambda total: Decimal(total.requests),
    "credits": lambda total: total.credits,
}
"""What a charge can meter. `price` is USD of rated usage; the others but `credits` are whole numbers."""

FRACTIONAL = frozenset({"price", "credits"})
"""Quantities that have decimal places, 12 of them."""

_UNITS = {"price": "USD"}  # what the other quantities count is their name


def plan_lines(plan: Plan, name: str, usage: Iterable[UsageTotal]) -> tuple[Line, ...]:
    """The base fee, the usage by feature and model, and what each charge makes of it.

    Args:
        name: the plan's, for its base fee.
        usage: of one tenant and month; totals of the same feature and model are summed.
    """
    totals = merged(usage)
    lines = []
    if plan.base_fee:
        lines.append(Line(kind=LineKind.BASE_FEE, text=f"base fee of {name}", amount=quantize(plan.base_fee)))
    included: list[UsageTotal] = []
    for total in totals:
        text, amount = "usage", quantize(_ZERO)
        if _is_metered(plan, total.feature_id, total.model):
            text = "usage, metered below"
        elif plan.usage == "included":
            text = "usage, included in the fee"
            included.append(total)
        else:
            amount = quantize(total.price)
        lines.append(Line(kind=LineKind.USAGE, text=text, amount=amount, usage=total))
    if included:
        lines.append(_included(_sum(total.price for total in included), "price", "usage at its rated price"))
    for charge in plan.charges:
        lines += _charge_lines(charge, totals)
    return tuple(lines)


def is_rated(plan: Plan, feature_id: str, model: str) -> bool:
    """Whether usage of a model by a feature is paid at its rated price."""
    return plan.usage == "rated" and not _is_metered(plan, feature_id, model)


def true_up(commitment: Commitment, charged: Decimal) -> Line | None:
    """What is missing of a commitment, or None where nothing is.

    Args:
        charged: USD of all months of the commitment's period: fees and usage, before prepaid credits.
    """
    missing = _EXACT.subtract(commitment.amount, charged)
    if missing <= 0:
        return None
    period = "the month" if commitment.months == 1 else f"{commitment.months} months"
    text = f"commitment of {commitment.amount:f} for {period}, of which {trimmed(charged)} was used"
    return Line(kind=LineKind.TRUE_UP, text=text, amount=quantize(missing))


def merged(usage: Iterable[UsageTotal]) -> tuple[UsageTotal, ...]:
    """One total for each feature and model, in their order."""
    groups: dict[tuple[str, str], list[UsageTotal]] = {}
    for total in usage:
        groups.setdefault((total.feature_id, total.model), []).append(total)
    return tuple(
        UsageTotal(
            feature_id=feature_id,
            model=model,
            requests=sum(total.requests for total in totals),
            input_tokens=sum(total.input_tokens for total in totals),
            output_tokens=sum(total.output_tokens for total in totals),
            credits=_sum(total.credits for total in totals),
            price=_sum(total.price for total in totals),
        )
        for (feature_id, model), totals in sorted(groups.items())
    )


def amount_of(lines: Iterable[Line], *kinds: LineKind) -> Decimal:
    """The exact sum of the lines of these kinds, or of all lines where none is named."""
    return from_pico(sum(to_pico(line.amount) for line in lines if not kinds or line.kind in kinds))


def trimmed(value: Decimal) -> str:
    """A number with no zeros at its end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _charge_lines(charge: Charge, totals: Sequence[UsageTotal]) -> Iterator[Line]:
    """What is included, then the overage by tier. A charge with nothing to meter has no lines."""
    measure = QUANTITIES[charge.quantity]
    metered = _sum(measure(total) for total in totals if _meters(charge, total.feature_id, total.model))
    what = charge.quantity
    what += "" if charge.feature is None else f" of {charge.feature}"
    what += "" if charge.model is None else f" with {charge.model}"
    if charge.included and metered:
        within = min(metered, charge.included)
        yield _included(within, charge.quantity, f"{what}, of {trimmed(charge.included)}")
    over = _EXACT.subtract(metered, min(metered, charge.included))
    if not over:
        return
    what += " over the included" if charge.included else ""
    if isinstance(charge.scale, Package):
        packages = _packages(over, charge.scale.size)
        yield Line(
            kind=LineKind.OVERAGE,
            text=f"{what}, in packages of {trimmed(charge.scale.size)}",
            amount=quantize(_EXACT.multiply(packages, charge.scale.price)),
            quantity=packages,
            unit="packages",
            unit_price=charge.scale.price,
        )
        return
    for units, floor, tier in _tiers_used(charge.scale, over):
        yield Line(
            kind=LineKind.OVERAGE,
            text=what + _tier_named(charge.scale, floor, tier),
            amount=quantize(_EXACT.add(_EXACT.multiply(units, tier.unit_price), tier.flat_fee)),
            quantity=units,
            unit=_UNITS.get(charge.quantity, charge.quantity),
            unit_price=tier.unit_price,
        )


def _tier_named(scale: Graduated | Volume, floor: Decimal, tier: Tier) -> str:
    """Where a tier lies: nothing for one that has all there is."""
    begin = f" above {trimmed(floor)}" if floor else ""
    end = "" if tier.up_to is None else f" up to {trimmed(tier.up_to)}"
    whole = " all at the tier" if isinstance(scale, Volume) else ""
    fee = f", and {trimmed(tier.flat_fee)} for the tier" if tier.flat_fee else ""
    return (f",{whole}{begin}{end}" if begin or end else "") + fee


def _tiers_used(scale: Graduated | Volume, over: Decimal) -> Iterator[tuple[Decimal, Decimal, Tier]]:
    """Units in a tier, where it begins, and the tier: for each one that `over` units reach."""
    floor = _ZERO
    for tier in scale.tiers:
        ceiling = over if tier.up_to is None else min(over, tier.up_to)
        is_last = ceiling == over
        if isinstance(scale, Graduated):
            yield _EXACT.subtract(ceiling, floor), floor, tier
        elif is_last:
            yield over, floor, tier
        if is_last:
            return
        floor = ceiling


def _packages(units: Decimal, size: Decimal) -> Decimal:
    """How many were begun."""
    full = _EXACT.divide_int(units, size)
    return _EXACT.add(full, Decimal(1)) if _EXACT.remainder(units, size) else full


def _included(units: Decimal, quantity: str, text: str) -> Line:
    return Line(
        kind=LineKind.INCLUDED,
        text=f"included: {text}",
        amount=quantize(_ZERO),
        quantity=units,
        unit=_UNITS.get(quantity, quantity),
    )


def _is_metered(plan: Plan, feature_id: str, model: str) -> bool:
    return any(_meters(charge, feature_id, model) for charge in plan.charges)


def _meters(charge: Charge, feature_id: str, model: str) -> bool:
    return charge.feature in (None, feature_id) and charge.model in (None, model)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = _ZERO
    for value in values:
        total = _EXACT.add(total, value)
    return total
