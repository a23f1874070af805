"""The commands that look back: `rerate`, `close`, `simulate`."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import click

from dataflows.actor import actor_of
from dataflows.alerts import wall_clock_ms
from dataflows.card_file import compiled, pricing_of, read_card_file
from dataflows.cli_options import (
    clickhouse_option,
    connected_tables,
    form_option,
    rendered,
    say,
    show_progress,
)
from dataflows.report import ReportTable
from dataflows.repricing import Scope
from dataflows.rerate import apply, effect_table, kept, preview, remarks
from dataflows.rerate_log import (
    begin,
    closed_months,
    first_open_day,
    set_closed,
    set_open,
    today_of,
    unfinished,
)
from dataflows.simulate import (
    DIMENSIONS,
    read_pairs,
    routes_of,
    simulated_table,
    with_multipliers,
)
from dataflows.simulate import simulate as run_simulation

card_option = click.option(
    "--card",
    "card_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="a rate card, or a meterline.yaml whose pricing section is one",
)
tenant_option = click.option("--tenant", default="", help="of this tenant alone")
limit_option = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="rows shown"
)
model_option = click.option("--model", default="", help="of this model alone")


@click.command()
@clickhouse_option
@card_option
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), required=True, help="first day (UTC)")
@click.option("--to", "end", type=click.DateTime(["%Y-%m-%d"]), required=True, help="day after the last one")
@tenant_option
@model_option
@click.option("--apply", "does_apply", is_flag=True, help="do it: without this nothing is changed")
@limit_option
@form_option
def rerate(  # an option each
    card_path: Path,
    first: datetime,
    end: datetime,
    tenant: str,
    model: str,
    does_apply: bool,  # noqa: FBT001  # click passes options by name
    limit: int,
    form: str,
) -> None:
    """Give priced events the amounts of another rate card: show what that does, and do it with --apply.

    The job may go on meanwhile. One that was cut off is finished by the next --apply, before anything else.
    Events of closed months keep their rows, and the difference is booked on the first open day.
    """
    if first >= end:
        raise click.UsageError("--to names the day after the last one: it must be later than --from")
    scope = Scope(first.date(), end.date(), tenant, model)
    file = read_card_file(card_path)
    card = compiled(pricing_of(file))
    with connected_tables() as client:
        begun = unfinished(client)
        if begun is not None and not does_apply:
            say(f"{begun}, is not finished: --apply finishes it first, and this shows it half done")
        if begun is not None and does_apply:
            apply(client, begun, show_progress, wall_clock_ms)
            say(f"{begun}, was not finished: it is now")
        if does_apply:
            actor = actor_of(os.environ)
            one = begin(client, scope, file, card.version, actor, wall_clock_ms())
            effect = apply(client, one, show_progress, wall_clock_ms)
            closed, booked_on, title = one.closed, one.booked_on, f"Done: {one} (USD)"
        else:
            closed = closed_months(client)
            booked_on = first_open_day(today_of(wall_clock_ms()), closed)
            effect = preview(client, scope, card, closed, show_progress)
            title = f"What rate card {card.version} would change (USD)"
    click.echo(rendered(_cut(effect_table(effect, title), limit), form))
    for remark in remarks(effect, closed, booked_on):
        say(remark)
    if not does_apply:
        say("nothing was changed: --apply does it")


@click.command()
@clickhouse_option
@click.argument("month", type=click.DateTime(["%Y-%m"]))
@click.option("--reopen", is_flag=True, help="open it again")
def close(month: datetime, reopen: bool) -> None:  # noqa: FBT001  # click passes options by name
    """Close a month (UTC): re-ratings change none of its rows any more, and book the difference later."""
    first = date(month.year, month.month, 1)
    if not 1970 <= first.year < 2100:  # events are of these years
        raise click.BadParameter(f"{first:%Y-%m} is not a month from 1970-01 to 2099-12")
    with connected_tables() as client:
        (set_open if reopen else set_closed)(client, first, actor_of(os.environ), wall_clock_ms())
        closed = closed_months(client)
    click.echo(f"closed: {', '.join(f'{one:%Y-%m}' for one in closed) or 'no month'}")


@click.command()
@clickhouse_option
@card_option
@click.option("--multiplier", "multipliers", multiple=True, metavar="MODEL=X", help="another one; repeatable")
@click.option("--route", "routes", multiple=True, metavar="A=B", help="B serves what A served; repeatable")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="first day (UTC); all by default")
@click.option("--to", "end", type=click.DateTime(["%Y-%m-%d"]), help="day after the last one")
@tenant_option
@model_option
@click.option("--by", type=click.Choice(list(DIMENSIONS)), help="one table; by default there are three")
@limit_option
@form_option
def simulate(  # noqa: PLR0913, PLR0917  # an option each
    card_path: Path,
    multipliers: tuple[str, ...],
    routes: tuple[str, ...],
    first: datetime | None,
    end: datetime | None,
    tenant: str,
    model: str,
    by: str | None,
    limit: int,
    form: str,
) -> None:
    """What would margin be by another rate card, other multipliers, or other models? Nothing is changed."""
    if form != "text" and by is None:
        raise click.UsageError(f"{form} is one table: say which with --by")
    days = (first.date() if first else date(1970, 1, 1), end.date() if end else date(2100, 1, 1))
    if days[0] >= days[1]:
        raise click.UsageError("--to names the day after the last one: it must be later than --from")
    listed = pricing_of(read_card_file(card_path))
    pricing = with_multipliers(listed, read_pairs("--multiplier", multipliers))
    instead = routes_of(pricing, read_pairs("--route", routes))
    with connected_tables() as client:
        scope = Scope(*days, tenant_id=tenant, model=model)
        found = run_simulation(client, scope, pricing, instead, show_progress)
    tables = [
        simulated_table(found, one, f"Margin by {one}, as it is and as it would be (USD)")
        for one in (DIMENSIONS if by is None else (by,))
    ]
    click.echo("\n\n".join(rendered(_cut(table, limit), form) for table in tables))
    for served, route in instead.items():
        say(f"{found.routed[served]:,} events of {served} are priced as if {route.model} had served them")
    for remark in kept(found.unpriced):
        say(remark)


def _cut(table: ReportTable, limit: int) -> ReportTable:
    """The first rows; totals are of all."""
    left = len(table.rows) - limit
    if left > 0:
        say(f"{left:,} rows of {table.title!r} are not shown: --limit shows more")
    return replace(table, rows=table.rows[:limit])


COMMANDS = (rerate, close, simulate)
