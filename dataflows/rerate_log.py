"""What is noted of re-ratings, so that one that is cut off can be finished, and of months that are closed.

A re-rating is noted before it changes anything, with all that it needs; the next one finishes it first. Two
never run at once. The embedded engine belongs to one process anyway. On a server each says that it wants to
begin, and then looks whether another does, or has begun: of two that meet at least the later one sees the
other, and is taken back. (There may be no state directory to lock where ClickHouse is a server; a row that is
looked at after it was written needs none.) One that only wanted to begin has changed nothing, and after
`WANTING_SECONDS` counts as dead.

Should two run at once all the same, because somebody takes a re-rating that still runs for one that was cut
off, both write the same rows (`dataflows.rerate`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from clickhouse_connect.driver.client import Client

from dataflows.card_file import CardFile
from dataflows.connections import PlanError
from dataflows.repricing import Scope
from sinks.publish import INSERT_SETTINGS

WANTING_SECONDS = 60
"""From wanting to begin to having begun it is two queries."""

WRITE_SETTINGS: dict[str, Any] = {**INSERT_SETTINGS, "insert_deduplicate": 0}
"""What is written again is the same row of a ReplacingMergeTree: no insert may be dropped for its looks."""

_WANTS, _BEGUN, _APPLIED, _TAKEN_BACK = range(4)
_NOTED = (
    *("rating", "rerate_id", "step", "actor", "begun_at", "applied_at", "first_day", "end_day", "tenant_id"),
    *("model", "rate_card_version", "card", "closed", "booked_on", "unpriced"),
)
_SUMS = ("events", "adjusted", "delta_cost", "delta_price", "delta_credits")


_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class RerateRefusedError(PlanError):
    """Another re-rating stands in the way. The message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Rerate:
    """A re-rating that has begun. `closed` are first days of months; `booked_on` is where their deltas go."""

    rating: int
    rerate_id: str
    actor: str
    begun_ms: int
    scope: Scope
    card: CardFile
    rate_card_version: str
    closed: tuple[date, ...]
    booked_on: date

    @property
    def begun_at(self) -> datetime:
        """When it began, UTC."""
        return _EPOCH + timedelta(milliseconds=self.begun_ms)

    def __str__(self) -> str:
        return f"re-rating {self.rating} of {self.actor}, begun at {self.begun_at:%Y-%m-%d %H:%M:%S} UTC"


def begin(
    client: Client, scope: Scope, card: CardFile, rate_card_version: str, actor: str, now_ms: int
) -> Rerate:
    """Note a re-rating; from here on it will be finished.

    Args:
        now_ms: the wall clock.

    Raises:
        RerateRefusedError: another one has begun, or is about to.
    """
    newest = client.query("SELECT max(rating) FROM rerate_log").result_rows[0][0]
    one = Rerate(
        int(newest) + 1,
        uuid.uuid4().hex,
        actor,
        now_ms,
        scope,
        card,
        rate_card_version,
        closed=(),
        booked_on=date(1970, 1, 1),
    )
    _note(client, one, _WANTS)
    try:
        refuse_while_another_runs(client, one.rerate_id)
    except RerateRefusedError:
        _note(client, one, _TAKEN_BACK)
        raise
    # After the note was written: whoever closes a month from now on sees the note, and gives way.
    closed = closed_months(client)
    one = replace(one, closed=closed, booked_on=first_open_day(today_of(now_ms), closed))
    _note(client, one, _BEGUN)
    return one


def refuse_while_another_runs(client: Client, rerate_id: str = "") -> None:
    """Look whether a re-rating but this one has begun and is not finished, or wants to begin.

    Raises:
        RerateRefusedError: there is one.
    """
    rows = client.query(
        "SELECT rating, actor, begun_at, step FROM rerate_log FINAL WHERE rerate_id != {id:String} AND"
        " (step = {begun:UInt8} OR (step = {wants:UInt8} AND"
        " noted_at > now64(3) - toIntervalSecond({seconds:UInt32})))"
        " ORDER BY step DESC, rating LIMIT 1",
        parameters={"id": rerate_id, "begun": _BEGUN, "wants": _WANTS, "seconds": WANTING_SECONDS},
    ).result_rows
    for rating, actor, begun_at, step in rows:
        told = f"re-rating {rating} of {actor}, begun at {begun_at:%Y-%m-%d %H:%M:%S} UTC"
        if step == _BEGUN:
            raise RerateRefusedError(f"{told}, is not finished: `meterline rerate --apply` finishes it")
        raise RerateRefusedError(f"{told}, has just wanted to begin: try again in a minute")


def unfinished(client: Client) -> Rerate | None:
    """The re-rating that was begun and not finished, if there is one."""
    rows = client.query(
        "SELECT rating, rerate_id, actor, toUnixTimestamp64Milli(begun_at), first_day, end_day, tenant_id,"
        " model, card, rate_card_version, closed, booked_on FROM rerate_log FINAL WHERE step = {begun:UInt8}"
        " ORDER BY rating LIMIT 1",
        parameters={"begun": _BEGUN},
    ).result_rows
    if not rows:
        return None
    rating, identity, actor, begun_ms, first, end, tenant, model, texts, version, closed, booked = rows[0]
    return Rerate(
        int(rating),
        identity,
        actor,
        int(begun_ms),
        Scope(first, end, tenant, model),
        CardFile(tuple((name, text) for name, text in texts)),
        version,
        tuple(closed),
        booked,
    )


def note_applied(client: Client, one: Rerate, unpriced: int, now_ms: int) -> None:
    """The re-rating is finished: what it changed is summed from its history."""
    found = client.query(
        "SELECT count(), countIf(adjusted), sum(h.delta_cost), sum(h.delta_price), sum(h.delta_credits)"
        " FROM rating_history AS h FINAL WHERE rating = {rating:UInt32}",
        parameters={"rating": one.rating},
    ).result_rows[0]
    _note(client, one, _APPLIED, unpriced, now_ms, dict(zip(_SUMS, found, strict=True)))


def _note(
    client: Client,
    one: Rerate,
    step: int,
    unpriced: int = 0,
    applied_ms: int | None = None,
    sums: dict[str, Any] | None = None,
) -> None:
    applied = None if applied_ms is None else _EPOCH + timedelta(milliseconds=applied_ms)
    scope = one.scope
    row = [
        *(one.rating, one.rerate_id, step, one.actor, one.begun_at, applied, scope.first_day, scope.end_day),
        *(scope.tenant_id, scope.model, one.rate_card_version, list(one.card.texts), list(one.closed)),
        *(one.booked_on, unpriced),
    ]
    further = sums or {}
    client.insert(
        "rerate_log",
        [[*row, *further.values()]],
        column_names=[*_NOTED, *further],
        settings=WRITE_SETTINGS,
    )


def closed_months(client: Client) -> tuple[date, ...]:
    """First days of the closed months, in order."""
    return tuple(
        row[0] for row in client.query("SELECT month FROM closed_periods ORDER BY month").result_rows
    )


def today_of(now_ms: int) -> date:
    """The day of an instant, UTC."""
    return (_EPOCH + timedelta(milliseconds=now_ms)).date()


def first_open_day(today: date, closed: Sequence[date]) -> date:
    """Where differences of closed months are booked: today, or the first day of the next open month."""
    if today.replace(day=1) not in closed:
        return today
    month = today.replace(day=1)
    while month in closed:
        month = (month + timedelta(days=31)).replace(day=1)
    return month


def set_closed(client: Client, month: date, actor: str, now_ms: int) -> None:
    """Close a month: re-ratings edit none of its rows any more.

    Raises:
        RerateRefusedError: a re-rating is not finished; the month stays as it was.
    """
    if month in closed_months(client):
        return
    _change(client, month, actor, now_ms, 1)
    try:
        # After it was written: a re-rating that begins from now on sees it.
        refuse_while_another_runs(client)
    except RerateRefusedError:
        _change(client, month, actor, now_ms + 1, 0)
        raise


def set_open(client: Client, month: date, actor: str, now_ms: int) -> None:
    """Open a month again: a re-rating edits its rows, and takes back what was booked for them elsewhere.

    Raises:
        RerateRefusedError: a re-rating is not finished.
    """
    refuse_while_another_runs(client)
    _change(client, month, actor, now_ms, 0)


def _change(client: Client, month: date, actor: str, now_ms: int, closed: int) -> None:
    client.command(
        "INSERT INTO period_changes (month, closed, actor, changed_at) SELECT {month:Date}, {closed:UInt8},"
        " {actor:String}, fromUnixTimestamp64Milli({now:Int64}, 'UTC')",
        parameters={"month": month, "closed": closed, "actor": actor, "now": now_ms},
        settings=WRITE_SETTINGS,
    )
