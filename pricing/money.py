"""USD as exact decimals with 12 places, and as whole picodollars for sums over columns.

Every amount fits ClickHouse's `Decimal(38,12)`: 26 digits before the point. Nothing here looks at the
thread's decimal context, which an application may have set to anything.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

USD_SCALE = 12
"""Decimal places of an amount."""

PICO = 10**USD_SCALE
"""Picodollars in a dollar."""

_DIGITS = 38
_WHOLE_DIGITS = _DIGITS - USD_SCALE
_END = Decimal(10**_WHOLE_DIGITS)
_STEP = Decimal("1e-12")
_CENT = Decimal("0.01")
_CONTEXT = Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])


def quantize(value: Decimal) -> Decimal:
    """Round to 12 places, half to even, in one step however many digits `value` has.

    >>> quantize(Decimal("0.0000000000005")), quantize(Decimal("0.0000000000015"))
    (Decimal('0E-12'), Decimal('2E-12'))

    Raises:
        TypeError: `value` is not a Decimal.
        ValueError: `value` is not finite, or has more than 26 digits before the point.
    """
    return _round(value, _STEP)


def nearest_cent(value: Decimal) -> Decimal:
    """Round to whole cents, half to even. For the totals of statements, never for rows.

    >>> nearest_cent(Decimal("2.675")), nearest_cent(Decimal("-0.004"))
    (Decimal('2.68'), Decimal('0.00'))

    Raises:
        TypeError, ValueError: as `quantize`.
    """
    return _round(value, _CENT)


def to_pico(value: Decimal) -> int:
    """The same amount as a whole number of picodollars, exactly.

    >>> to_pico(Decimal("1.50"))
    1500000000000

    Raises:
        TypeError: `value` is not a Decimal.
        ValueError: `value` is not finite, too large, or needs more than 12 places.
    """
    amount = quantize(value)
    if amount != value:
        raise ValueError(f"an amount has at most {USD_SCALE} decimal places, got {value!s:.60}")
    return int(amount.scaleb(USD_SCALE, _CONTEXT))


def from_pico(pico: int) -> Decimal:
    """The amount in USD, with 12 places, of a whole number of picodollars.

    >>> from_pico(1_500_000_000_000)
    Decimal('1.500000000000')

    Raises:
        ValueError: the amount has more than 26 digits before the point.
    """
    if abs(pico) >= 10**_DIGITS:
        raise ValueError(f"an amount has at most {_WHOLE_DIGITS} digits before the point")
    return Decimal(pico).scaleb(-USD_SCALE, _CONTEXT)


def round_half_even_div(numerator: int, divisor: int) -> int:
    """`numerator / divisor` rounded to a whole number, half to even, in exact integers.

    >>> round_half_even_div(5, 2), round_half_even_div(7, 2), round_half_even_div(-5, 2)
    (2, 4, -2)

    Raises:
        ZeroDivisionError: `divisor` is zero.
    """
    if divisor < 0:
        numerator, divisor = -numerator, -divisor
    quotient, remainder = divmod(numerator, divisor)
    twice = 2 * remainder
    # divmod floors, so the remainder is never negative and rounding only ever goes up, below zero too.
    if twice > divisor or (twice == divisor and quotient % 2 == 1):
        return quotient + 1
    return quotient


def _round(value: Decimal, step: Decimal) -> Decimal:
    if not isinstance(value, Decimal):
        raise TypeError(f"money is a Decimal, never a {type(value).__name__}")
    try:
        rounded = value.quantize(step, context=_CONTEXT)
    except InvalidOperation:
        rounded = _END
    if not rounded.is_finite() or rounded.copy_abs() >= _END:
        raise ValueError(f"an amount is finite, with at most {_WHOLE_DIGITS} digits before the point")
    # A refund of less than half a step would otherwise read "-0.00" on a statement.
    return rounded.copy_abs() if rounded.is_zero() else rounded
