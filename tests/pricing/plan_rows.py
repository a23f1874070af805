"""Usage, tiers and grants as short text, for tests of plans, prepaid credits and statements."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

from pricing.plans import Line, LineKind, Tier, UsageTotal, trimmed

USAGE_KINDS = (LineKind.USAGE, LineKind.OVERAGE)


def usage(
    *,
    feature_id: str = "chat",
    model: str = "big",
    requests: int = 1,
    input_tokens: int = 0,
    output_tokens: int = 0,
    credits_used: str = "0",
    price: str = "0",
) -> UsageTotal:
    return UsageTotal(
        feature_id=feature_id,
        model=model,
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        credits=Decimal(credits_used),
        price=Decimal(price),
    )


def tiers(text: str) -> tuple[Tier, ...]:
    """`"10 0.5, 20 0.4 +3, - 0.3"`: up to 10 for 0.5 each, to 20 for 0.4 and once 3, beyond for 0.3."""
    found = []
    for part in text.split(", "):
        end, price, *fee = part.split()
        found.append(
            Tier(
                up_to=None if end == "-" else Decimal(end),
                unit_price=Decimal(price),
                flat_fee=Decimal(fee[0]) if fee else Decimal(0),
            )
        )
    return tuple(found)


def month(text: str) -> date:
    return date.fromisoformat(f"{text}-01")


def short(lines: Iterable[Line]) -> list[str]:
    """Each line as `kind [quantity unit] amount`."""
    return [
        " ".join(
            [line.kind.value]
            + ([] if line.quantity is None else [trimmed(line.quantity), line.unit])
            + [trimmed(line.amount)]
        )
        for line in lines
    ]
