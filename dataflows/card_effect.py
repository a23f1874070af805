"""What two rate cards make of a period's usage: cost, price and margin by model, side by side."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from clickhouse_connect.driver.client import Client

from dataflows.report import ReportTable
from dataflows.repricing import Scope
from dataflows.rerate import OnProgress
from dataflows.simulate import DIMENSIONS, Simulated, simulate, simulated_table
from pricing.settings import PricingSettings


def last_month(today: date) -> Scope:
    """Every event of the calendar month (UTC) before the one of `today`."""
    end = today.replace(day=1)
    return Scope((end - timedelta(days=1)).replace(day=1), end)


def effect_by_model(
    client: Client, scope: Scope, old: PricingSettings, new: PricingSettings, on_progress: OnProgress
) -> tuple[ReportTable, Counter[str]]:
    """Both cards on the same events, whatever rated them; and how many events one of the two cannot rate.

    Such an event counts on that side with what is in force for it.
    """
    before, after = (simulate(client, scope, pricing, {}, on_progress) for pricing in (old, new))
    names = list(DIMENSIONS.values())
    was = before.sums.select(*names, "events", old_cost="cost", old_price="price")
    sums = was.join(after.sums.select(*names, "cost", "price"), on=names)
    last_day = scope.end_day - timedelta(days=1)
    title = f"Usage of {scope.first_day} to {last_day}, by the old card and the new one (USD)"
    unpriced = Counter(
        {
            f"{which} card: {why}": count
            for which, one in (("old", before), ("new", after))
            for why, count in one.unpriced.items()
        }
    )
    return simulated_table(Simulated(sums, Counter(), unpriced), "model", title), unpriced
