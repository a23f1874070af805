"""Which models that a card knows have events waiting in quarantine for a rate."""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from metering.event import QuarantineReason
from pricing.card_match import numbers_of
from pricing.rate_card import RateCard

MODELS_MAX = 10_000
"""Models looked at, those with most events first; more than these were made up by somebody."""

_MODELS = """
SELECT model FROM quarantine_log FINAL WHERE reason = {reason:String} AND resolved_at IS NULL
GROUP BY model ORDER BY count() DESC, model LIMIT {limit:UInt32}
"""


def models_awaiting(client: Client, card: RateCard) -> list[str]:
    """Models of unresolved `unpriced` lines for which the card has an entry of any kind.

    Whether it prices a line (its tier, its date, its units) shows when the line is put through.
    """
    parameters = {"reason": QuarantineReason.UNPRICED.value, "limit": MODELS_MAX}
    found = client.query(_MODELS, parameters=parameters).result_rows
    return [model for (model,) in found if numbers_of(card.index, card.rules, "", model)]
