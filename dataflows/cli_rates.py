"""`meterline rates`: rate cards from a catalogue, and what differs between two of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import click

from dataflows.alerts import wall_clock_ms
from dataflows.card_effect import effect_by_model, last_month
from dataflows.card_file import compiled, pricing_of, read_card, read_card_file
from dataflows.card_report import diff_table
from dataflows.catalogue import Wanted
from dataflows.catalogue_file import PACKAGE, make_card, write_card
from dataflows.cli_options import (
    clickhouse_option,
    connected_tables,
    form_option,
    rendered,
    say,
    show_progress,
)
from dataflows.connections import CLICKHOUSE_ENV
from dataflows.repricing import Scope
from dataflows.rerate import kept
from dataflows.rerate_log import today_of
from dataflows.second_opinion import PACKAGE as SECOND_OPINION
from dataflows.second_opinion import compare_table
from pricing.settings_keys import Unfit, decimal

T = TypeVar("T")

_MILLION_DIGITS = 6
_MULTIPLIER = decimal("0", "1000", places=6)
_RATE = decimal("0", "1000000", places=12)


def _read_by(read: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    def callback(_: click.Context, __: click.Parameter, text: str | None) -> T | None:
        try:
            return None if text is None else read(text)
        except Unfit as exc:
            raise click.BadParameter(str(exc)) from None

    return callback


@click.group()
def rates() -> None:
    """Make a rate card from a catalogue, or see what differs between two cards."""


@rates.command(name="import")
@click.argument("catalogue", type=click.Choice([PACKAGE]))
@click.option("--provider", "providers", multiple=True, required=True, help="such as openai; may be repeated")
@click.option("--model", "patterns", multiple=True, default=("*",), help="such as 'gpt-5*'; may be repeated")
@click.option(
    "--multiplier",
    metavar="X",
    default="1",
    callback=_read_by(_MULTIPLIER),
    help="price = cost × X; 1 if left out",
)
@click.option(
    "--output-rate",
    metavar="USD",
    callback=_read_by(_RATE),
    help="for a million output tokens of models without one, such as those that embed (0: they are free)",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="standard output if left out")
@click.option("--force", is_flag=True, help="replace the file if it is there")
def import_command(
    catalogue: str,  # noqa: ARG001  # there is one so far
    providers: tuple[str, ...],
    patterns: tuple[str, ...],
    multiplier: Decimal,
    output_rate: Decimal | None,
    out: Path | None,
    force: bool,  # noqa: FBT001  # click passes options by name
) -> None:
    """Write a rate card with the prices of a catalogue that is installed; nothing is fetched.

    Whatever a card cannot say is left out, and listed: here, and at the top of the file.
    """
    if out is not None and out.exists() and not force:
        raise click.UsageError(f"{out} is there already: give --force to replace it")
    rate = None if output_rate is None else output_rate.scaleb(-_MILLION_DIGITS)
    card = make_card(providers, Wanted(patterns, multiplier, rate), datetime.now(timezone.utc).date())
    for told in card.untold:
        click.echo(f"not in the card: {told}", err=True)
    if out is None:
        click.echo(card.text, nl=False)
        return
    write_card(card, out)
    click.echo(f"{card.entries} entries written to {out}; {len(card.untold)} prices or names are not in it")


@rates.command(name="compare")
@click.argument("with_", metavar=SECOND_OPINION, type=click.Choice([SECOND_OPINION]))
@click.option(
    "--card",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="a rate card, or a meterline.yaml",
)
@form_option
def compare_command(with_: str, card: Path, form: str) -> None:  # noqa: ARG001  # there is one so far
    """Show where a card and LiteLLM's price map, as installed, disagree on base rates of today.

    Neither of them need be right: look at the provider's own page for each row.
    """
    click.echo(rendered(compare_table(read_card(card), datetime.now(timezone.utc)), form))


@rates.command(name="diff")
@clickhouse_option
@click.argument("old", metavar="OLD", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="first day of usage (UTC); last month's"
)
@click.option("--to", "end", type=click.DateTime(["%Y-%m-%d"]), help="day after the last one")
@form_option
def diff_command(old: Path, new: Path, first: datetime | None, end: datetime | None, form: str) -> None:
    """Show what changes from one rate card to another, and from when on priced events come to something else.

    Each is a rate-card file, or a meterline.yaml whose pricing section is the card. Where a ClickHouse is
    named, a table besides shows what both make of last month's usage: in text, or in place of the changes
    with --from and --to.
    """
    if (first is None) != (end is None):
        raise click.UsageError("give both of --from and --to, or none")
    if first is not None and end is not None and first >= end:
        raise click.UsageError("--to names the day after the last one: it must be later than --from")
    before, after = (pricing_of(read_card_file(path)) for path in (old, new))
    changed = rendered(diff_table(compiled(before), compiled(after)), form)
    if not os.environ.get(CLICKHOUSE_ENV):
        click.echo(changed)
        say("no ClickHouse is named, so what this makes of usage is not shown")
        return
    scope = last_month(today_of(wall_clock_ms()))
    if first is not None and end is not None:
        scope = Scope(first.date(), end.date())
    with connected_tables() as client:
        effect, unpriced = effect_by_model(client, scope, before, after, show_progress)
    tables = [changed, rendered(effect, form)]
    click.echo("\n\n".join(tables if form == "text" else tables[first is not None :][:1]))
    for remark in kept(unpriced):
        say(remark)
