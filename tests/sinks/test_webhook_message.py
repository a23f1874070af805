"""What the message about an alert says."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from sinks.webhook import BODY_BYTES_MAX, alert_message
from tests.sinks.hooks import ALERT, MESSAGE, NOW_MS


def test_the_message_about_an_alert() -> None:
    assert (MESSAGE.id, MESSAGE.type, MESSAGE.timestamp_ms) == (
        "alert_0123456789abcdef",
        "cap.threshold_reached",
        NOW_MS,
    )
    assert json.loads(MESSAGE.body) == {
        "type": "cap.threshold_reached",
        "timestamp": "2026-03-01T09:30:00.000Z",
        "data": {
            "alert_id": "alert_0123456789abcdef",
            "tenant_id": "acme",
            "feature_id": "",
            "window_kind": "day",
            "window_start": "2026-03-01T00:00:00.000Z",
            "window_end": "2026-03-02T00:00:00.000Z",
            "state": "warning",
            "currency": "USD",
            "cap": "50.00",
            "threshold": "0.8",
            "spend": "40.000312000000",
            "crossing_key": "req-77",
            "fallback_model": "fallback-llama-3",
        },
    }


@pytest.mark.parametrize(
    ("threshold", "fallback_model", "state", "fallback"),
    [
        ("0.8", "llama", "warning", "llama"),
        ("0.999999", "llama", "warning", "llama"),
        ("1", None, "exceeded", None),
        ("1.0", "", "exceeded", None),
        ("1.5", "llama", "exceeded", "llama"),
    ],
)
def test_a_threshold_of_one_means_exceeded(
    threshold: str, fallback_model: str | None, state: str, fallback: str | None
) -> None:
    data = json.loads(alert_message(replace(ALERT, threshold=Decimal(threshold)), fallback_model).body)[
        "data"
    ]
    assert (data["state"], data["fallback_model"]) == (state, fallback)


@pytest.mark.parametrize(
    "amount", ["0.000000000001", "1E+3", "1E-12", "99999999999999999999999999.999999999999"]
)
def test_amounts_are_decimal_strings_without_exponents(amount: str) -> None:
    data = json.loads(alert_message(replace(ALERT, spend=Decimal(amount)), None).body)["data"]
    assert Decimal(data["spend"]) == Decimal(amount)
    assert set(data["spend"]) <= set("0123456789.")


def test_the_longest_alert_stays_below_the_limit_and_a_longer_one_is_refused() -> None:
    longest = replace(
        ALERT, tenant_id="\U0001f600" * 128, feature_id="\x00" * 128, crossing_key="\U0001f600" * 256
    )
    assert len(alert_message(longest, "m" * 128).body) < BODY_BYTES_MAX
    with pytest.raises(ValueError, match="alert_0123456789abcdef would have"):
        alert_message(longest, "m" * BODY_BYTES_MAX)
