from __future__ import annotations

import doctest
from collections.abc import Iterator
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, Inexact, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import money
from pricing.money import PICO, USD_SCALE, from_pico, nearest_cent, quantize, round_half_even_div, to_pico

LARGEST = Decimal("9" * 26 + "." + "9" * 12)

amounts = st.decimals(-(10**26) + 1, 10**26 - 1, allow_nan=False, allow_infinity=False, places=20)
picos = st.integers(min_value=-(10**38) + 1, max_value=10**38 - 1)


@pytest.fixture(params=["as it comes", "hostile"], autouse=True)
def thread_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs twice: an application may have set the thread's context to anything."""
    if request.param == "as it comes":
        yield
        return
    with localcontext(Context(prec=3, rounding=ROUND_DOWN, traps=[Inexact])):
        yield


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        ("0", "0.000000000000"),
        ("1.5", "1.500000000000"),
        ("0.0000000000005", "0.000000000000"),
        ("0.0000000000015", "0.000000000002"),
        ("0.0000000000025", "0.000000000002"),
        ("-0.0000000000015", "-0.000000000002"),
        ("-0.0000000000005", "0.000000000000"),
        # Rounding to 13 places first would make a half of it, and the half would go up.
        ("0.00000000000149999999999999999999999999999999999999", "0.000000000001"),
        ("1e-999999", "0.000000000000"),
        ("9" * 26 + ".999999999999", "9" * 26 + ".999999999999"),
    ],
)
def test_quantize_rounds_once_and_half_to_even(value: str, rounded: str) -> None:
    assert f"{quantize(Decimal(value)):f}" == rounded


@pytest.mark.parametrize(
    ("value", "cents"),
    [
        ("0.005", "0.00"),
        ("0.015", "0.02"),
        ("0.0150000000001", "0.02"),
        ("0.0249999999999", "0.02"),
        ("2.675", "2.68"),
        ("-0.015", "-0.02"),
        ("-0.004", "0.00"),
        ("12345678901234567890123456.785", "12345678901234567890123456.78"),
    ],
)
def test_nearest_cent_rounds_half_to_even(value: str, cents: str) -> None:
    assert str(nearest_cent(Decimal(value))) == cents


@pytest.mark.parametrize(
    "value",
    ["NaN", "sNaN", "Infinity", "-Infinity", "1e26", "-1e26", "1e999999", "9" * 26 + ".9999999999995"],
)
def test_what_the_column_cannot_hold_is_refused(value: str) -> None:
    for rounding in (quantize, to_pico):
        with pytest.raises(ValueError, match="finite, with at most 26 digits"):
            rounding(Decimal(value))


def test_cents_are_bounded_like_amounts() -> None:
    with pytest.raises(ValueError, match="at most 26 digits"):
        nearest_cent(Decimal("1e30"))


@pytest.mark.parametrize("value", [0.5, 1])
def test_only_decimals_are_money(value: float) -> None:
    for function in (quantize, nearest_cent, to_pico):
        with pytest.raises(TypeError, match="money is a Decimal, never a"):
            function(value)  # type: ignore[arg-type] # the mistake under test


@pytest.mark.parametrize(
    ("value", "pico"),
    [
        ("0", 0),
        ("-0", 0),
        ("1", PICO),
        ("-1.5", -3 * PICO // 2),
        ("0.000000000001", 1),
        ("1.0000000000000000", PICO),
        (str(LARGEST), 10**38 - 1),
    ],
)
def test_an_amount_is_a_whole_number_of_picodollars(value: str, pico: int) -> None:
    assert to_pico(Decimal(value)) == pico


@pytest.mark.parametrize("value", ["0.0000000000001", "1.0000000000005", "1e-30"])
def test_to_pico_never_rounds(value: str) -> None:
    with pytest.raises(ValueError, match="at most 12 decimal places, got"):
        to_pico(Decimal(value))


@pytest.mark.parametrize("pico", [10**38, -(10**38)])
def test_from_pico_refuses_what_the_column_cannot_hold(pico: int) -> None:
    with pytest.raises(ValueError, match="at most 26 digits"):
        from_pico(pico)


@pytest.mark.parametrize(
    ("numerator", "divisor", "quotient"),
    [
        (0, 7, 0),
        (5, 2, 2),
        (7, 2, 4),
        (-5, 2, -2),
        (-7, 2, -4),
        (5, -2, -2),
        (-5, -2, 2),
        (1, 3, 0),
        (2, 3, 1),
        (-1, 3, 0),
        (10**40 + 1, 2, 5 * 10**39),
        (10**40 + 3, 2, 5 * 10**39 + 2),
    ],
)
def test_division_rounds_half_to_even(numerator: int, divisor: int, quotient: int) -> None:
    assert round_half_even_div(numerator, divisor) == quotient


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        round_half_even_div(1, 0)


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(money)
    assert results.attempted >= 5
    assert results.failed == 0


@given(st.integers(), st.integers().filter(bool))
def test_division_is_the_nearest_integer(numerator: int, divisor: int) -> None:
    assert round_half_even_div(numerator, divisor) == round(Fraction(numerator, divisor))


@given(picos)
def test_picodollars_survive_the_way_there_and_back(pico: int) -> None:
    assert to_pico(from_pico(pico)) == pico


@given(amounts)
def test_quantize_is_the_nearest_picodollar(value: Decimal) -> None:
    assert to_pico(quantize(value)) == round(Fraction(value) * PICO)
    assert quantize(quantize(value)) == quantize(value)


@given(amounts)
def test_a_statement_moves_by_at_most_half_a_cent(value: Decimal) -> None:
    assert abs(Fraction(nearest_cent(value)) - Fraction(value)) <= Fraction(1, 200)


@given(st.lists(picos.map(lambda pico: pico // 10**6), max_size=50))
def test_a_sum_in_picodollars_is_the_sum_of_the_amounts(parts: list[int]) -> None:
    with localcontext(Context(prec=60, rounding=ROUND_HALF_EVEN)):
        total = sum((from_pico(part) for part in parts), Decimal(0))
    assert to_pico(total) == sum(parts)
    assert -quantize(total).as_tuple().exponent == USD_SCALE  # type: ignore[operator] # a finite number's is an int
