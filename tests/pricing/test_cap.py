"""The identity of a cap alert: what a receiver drops repeats by."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError
from decimal import ROUND_UP, Context, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.cap import CapAlert, alert_id

DAY_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
Identity = tuple[str, str, str, int, Decimal]

ALERT = CapAlert(
    alert_id=alert_id("acme", "", "day", DAY_MS, Decimal("0.8")),
    tenant_id="acme",
    feature_id="",
    window_kind="day",
    window_start_ms=DAY_MS,
    window_end_ms=DAY_MS + 86_400_000,
    cap=Decimal("50.00"),
    threshold=Decimal("0.8"),
    spend=Decimal("40.000312000000"),
    crossing_key="k1",
    raised_at_ms=DAY_MS + 1,
)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        # SHA-256 of "4:acme0:3:day13:17723232000003:0.8", and so on. Receivers remember these ids: whatever
        # is done to this module, they stay.
        (("acme", "", "day", DAY_MS, Decimal("0.8")), "alert_81a38e74326d39d9b5f99d21715cabc0"),
        (("acme", "search", "month", DAY_MS, Decimal(1)), "alert_222cb39091671488905d2e4b147fd42b"),
        (
            ("Zoë \U0001f600", "", "day", -3_600_000, Decimal("0.000001")),
            "alert_63cf215ad999e41a9bbf998055f0f27c",
        ),
    ],
)
def test_ids_stay_what_they_were(identity: Identity, expected: str) -> None:
    assert alert_id(*identity) == expected


@pytest.mark.parametrize(
    "written",
    ["0.8", "0.80", ".8", "8e-1", "80E-2", "0.800000000000000000000000000000000000000000000000000000000"],
)
def test_a_threshold_is_its_value_however_it_was_written(written: str) -> None:
    assert alert_id("acme", "", "day", DAY_MS, Decimal(written)) == ALERT.alert_id


@pytest.mark.parametrize("written", ["1", "1.0", "1.000000", "1e0", "0.1e1", "10e-1"])
def test_so_is_the_cap_itself(written: str) -> None:
    assert alert_id("a", "", "day", 0, Decimal(written)) == alert_id("a", "", "day", 0, Decimal(1))


def test_the_threads_decimal_context_changes_no_id() -> None:
    precise = Decimal("0.812345")
    expected = alert_id("acme", "", "day", DAY_MS, precise)
    with localcontext(Context(prec=2, rounding=ROUND_UP, capitals=0)):
        assert alert_id("acme", "", "day", DAY_MS, precise) == expected
        assert alert_id("acme", "", "day", DAY_MS, Decimal("0.81")) != expected


# Few letters, and those of the separators: parts that are merely joined would often read alike.
words = st.text(alphabet="01:,.\x00é", max_size=4) | st.text(max_size=8).filter(
    lambda text: text.isprintable()
)
identities = st.tuples(
    words,
    words,
    st.sampled_from(["day", "month"]),
    st.integers(-12, 12) | st.integers(0, 4_102_444_800_000),
    st.integers(1, 1_000_000).map(lambda millionths: Decimal(f"{millionths}e-6")),
)


@given(identities, identities)
def test_one_identity_one_id(left: Identity, right: Identity) -> None:
    assert re.fullmatch(r"alert_[0-9a-f]{32}", alert_id(*left))
    assert alert_id(*left) == alert_id(*left)
    assert (alert_id(*left) == alert_id(*right)) == (left == right)


@given(st.text(alphabet="01:a", min_size=1, max_size=12), st.data())
def test_where_one_part_ends_and_the_next_begins_matters(text: str, data: st.DataObject) -> None:
    cuts = [data.draw(st.integers(0, len(text))) for _ in range(2)]
    left, right = [alert_id(text[:cut], text[cut:], "day", 0, Decimal(1)) for cut in cuts]
    assert (left == right) == (cuts[0] == cuts[1])


@pytest.mark.parametrize("position", range(5))
def test_every_part_of_an_identity_counts(position: int) -> None:
    identity: list[object] = ["acme", "search", "day", DAY_MS, Decimal("0.8")]
    other: list[object] = ["acme2", "search2", "month", DAY_MS + 1, Decimal("0.9")]
    changed = [*identity[:position], other[position], *identity[position + 1 :]]
    assert alert_id(*changed) != alert_id(*identity)  # type: ignore[arg-type] # parts of five types in a list


def test_an_alert_is_a_value() -> None:
    assert pickle.loads(pickle.dumps(ALERT)) == ALERT  # noqa: S301 - our own bytes
    with pytest.raises(FrozenInstanceError):
        ALERT.spend = Decimal(0)  # type: ignore[misc] # the mistake under test
