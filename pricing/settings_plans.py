"""Reading the section `plans` of `meterline.yaml`: what plans there are, and which tenant is on which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal

from pricing import settings_keys as read
from pricing.money import USD_SCALE
from pricing.plans import (
    FRACTIONAL,
    QUANTITIES,
    Charge,
    Commitment,
    Graduated,
    Package,
    Plan,
    Tier,
    Volume,
    trimmed,
)
from pricing.prepaid import Grant
from pricing.settings_keys import Section
from pricing.settings_values import PlanPeriod, PlanSettings
from pricing.windows import months_between

_ZERO = Decimal(0)
_ONE = Decimal(1)

_NAME = read.label(1, 128)
_AMOUNT = read.decimal("0", "1e9", places=USD_SCALE)
# With 2**64 units, the most that a month's tokens are summed to, an amount has 26 digits before the point.
_UNIT_PRICE = read.decimal("0", "1e6", places=18)
_SCALES = ("graduated", "volume", "package")


def read_plans(keys: Section) -> PlanSettings:
    """The section as values; what is wrong with it is added to the problems of `keys`."""
    definitions = {name: _plan(section) for name, section in keys.entries("definitions", _NAME)}
    plans = PlanSettings(
        definitions=definitions,
        default=keys.optional("default", _NAME, None),
        tenants={name: _periods(sections, definitions) for name, sections in keys.lists("tenants", _NAME)},
        prepaid={
            name: tuple(_grant(section) for section in sections)
            for name, sections in keys.lists("prepaid", _NAME)
        },
    )
    if plans.default is not None and _is_defined(keys, "default", plans.default, definitions):
        commitment = definitions[plans.default].commitment
        if commitment is not None and commitment.months > 1:
            sentence = (
                f"must not be a plan with a commitment of {commitment.months} months: they need a start"
            )
            keys.problem("default", sentence)
    keys.finish()
    return plans


def _plan(keys: Section) -> Plan:
    default = Plan()
    plan = Plan(
        base_fee=keys.optional("base_fee", _AMOUNT, default.base_fee),
        usage=keys.optional("usage", read.one_of("rated", "included"), default.usage),
        charges=tuple(_charge(section) for section in keys.sections("charges")),
        commitment=_commitment(keys.section("commitment")) if keys.given("commitment") else None,
    )
    keys.finish()
    return plan


def _commitment(keys: Section) -> Commitment:
    commitment = Commitment(
        amount=keys.required("amount", _AMOUNT, _ZERO), months=keys.optional("months", read.whole(1, 120), 1)
    )
    keys.finish()
    return commitment


def _charge(keys: Section) -> Charge:
    # Where the quantity is wrong, the numbers are read as if they could be any.
    quantity = keys.required("quantity", read.one_of(*QUANTITIES), "price")
    given = [scale for scale in _SCALES if keys.given(scale)]
    if keys.is_mapping and len(given) != 1:
        keys.problem(None, "must have one of graduated, volume and package")
    scale: Graduated | Volume | Package = Graduated(())
    if keys.given("graduated"):
        scale = Graduated(_tiers(keys.sections("graduated", count_min=1), quantity))
    if keys.given("volume"):
        scale = Volume(_tiers(keys.sections("volume", count_min=1), quantity))
    if keys.given("package"):
        scale = _package(keys.section("package"), quantity)
    charge = Charge(
        quantity=quantity,
        scale=scale,
        included=keys.optional("included", _units(quantity), _ZERO),
        feature=keys.optional("feature", _NAME, None),
        model=keys.optional("model", _NAME, None),
    )
    keys.finish()
    return charge


def _tiers(sections: list[Section], quantity: str) -> tuple[Tier, ...]:
    tiers = []
    floor = _ZERO
    for position, keys in enumerate(sections, 1):
        tier = Tier(
            unit_price=keys.required("unit_price", _UNIT_PRICE, _ZERO),
            up_to=keys.optional("up_to", _units(quantity), None),
            flat_fee=keys.optional("flat_fee", _AMOUNT, _ZERO),
        )
        is_last = position == len(sections)
        if is_last and keys.given("up_to"):
            keys.problem("up_to", "must not stand in the last tier: usage above it would have no price")
        elif not is_last and keys.is_mapping and not keys.given("up_to"):
            keys.problem("up_to", "is missing: only the last tier has no end")
        elif tier.up_to is not None:
            if tier.up_to <= floor:
                keys.problem(
                    "up_to",
                    f"must be more than {trimmed(floor)}, where the tier begins, got {trimmed(tier.up_to)}",
                )
            floor = max(floor, tier.up_to)
        tiers.append(tier)
        keys.finish()
    return tuple(tiers)


def _package(keys: Section, quantity: str) -> Package:
    package = Package(
        size=keys.required("size", _units(quantity), _ONE), price=keys.required("price", _AMOUNT, _ZERO)
    )
    if package.size == 0:
        keys.problem("size", "must be more than 0")
    keys.finish()
    return package


def _units(quantity: str) -> Callable[[str], Decimal]:
    """Reads so many of a quantity: exact decimals of money and compute credits, whole numbers of the rest."""
    if quantity in FRACTIONAL:
        return read.decimal("0", "1e18", places=USD_SCALE)
    whole = read.whole(0, 10**18)
    return lambda text: Decimal(whole(text))


def _periods(sections: list[Section], definitions: Mapping[str, Plan]) -> tuple[PlanPeriod, ...]:
    found: list[tuple[PlanPeriod, Section]] = []
    for keys in sections:
        plan = keys.required("plan", _NAME, "")
        since = keys.required("from", read.month, None)
        until = keys.optional("until", read.month, None)
        keys.finish()
        is_defined = bool(plan) and _is_defined(keys, "plan", plan, definitions)
        if since is None or (until is None and keys.given("until")):
            continue
        if until is not None and until <= since:
            keys.problem("until", "must be a later month than from: it is the first without the plan")
            continue
        if is_defined:
            _check_commitment(keys, definitions[plan].commitment, since, until)
        found.append((PlanPeriod(plan=plan, since=since, until=until), keys))
    found.sort(key=lambda one: one[0].since)
    _check_overlaps(found)
    return tuple(period for period, _ in found)


def _check_overlaps(found: list[tuple[PlanPeriod, Section]]) -> None:
    """`found` ascends by its beginnings. Each period is held against the longest of those before it."""
    ends, longest = date.min, ""
    for period, keys in found:
        if period.since < ends:
            keys.problem("from", f"is before the end of {longest}: a tenant has one plan at a time")
        end = period.until or date.max
        if end > ends:
            ends, longest = end, keys.path


def _check_commitment(keys: Section, commitment: Commitment | None, since: date, until: date | None) -> None:
    """A commitment that ended in the middle of its months would never be trued up."""
    months = 1 if commitment is None else commitment.months
    if until is not None and months_between(since, until) % months:
        keys.problem(
            "until", f"must be a multiple of {months} months after from, as the plan's commitment is"
        )


def _is_defined(keys: Section, key: str, name: str, definitions: Mapping[str, Plan]) -> bool:
    if name in definitions:
        return True
    hint = read.closest(name, definitions)
    keys.problem(key, f"must be one of plans.definitions, got {name!r}{hint}")
    return False


def _grant(keys: Section) -> Grant:
    # A stand-in for a month that is wrong: no month is later.
    granted_at = keys.required("granted_at", read.month, date.max)
    grant = Grant(
        amount=keys.required("amount", _AMOUNT, _ZERO),
        granted_at=granted_at,
        expires_at=keys.optional("expires_at", read.month, None),
        priority=keys.optional("priority", read.whole(0, 1000), 0),
    )
    if grant.expires_at is not None and granted_at != date.max and grant.expires_at <= granted_at:
        keys.problem(
            "expires_at", "must be a later month than granted_at: it is the first without the credits"
        )
    keys.finish()
    return grant
