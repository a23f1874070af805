"""`meterline rerate` and `close` as a user types them, and what audits, replays and rebuilds make of it."""

from __future__ import annotations

import json
import shutil
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dataflows import rerate_log
from dataflows.card_file import CardFile, compiled, pricing_of
from dataflows.repricing import Scope
from sinks.clickhouse import connect, parse_address
from tests.dataflows.priced import NEW, NOON_MS, OLD, event
from tests.dataflows.test_cli import meterline
from tests.integration.running import QUICK, Place, audit_of, what_stands

pytestmark = pytest.mark.slow

LIMITS = """
limits:
  tenant: {daily_cap: 0.02, monthly_cap: 0.03}
  overrides: {tenants: {acme: {timezone: Asia/Kathmandu, features: {chat: {daily_cap: 0.01}}}}}
"""
EVENTS = [
    *(event(f"a{number}", days_ago=0, input_tokens=number) for number in range(20)),
    *(event(f"b{number}", "small", 1, tenant_id="zenith", output_tokens=number % 3) for number in range(20)),
    event("gone", "gone"),
]
ALL = ("--from", "2026-01-01", "--to", "2027-01-01")


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place whose events were priced by the old card."""
    root = tmp_path_factory.mktemp("priced")
    (root / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in EVENTS))
    place = Place(root, OLD + LIMITS + QUICK)
    code, stderr = place.run(f"file://{root}/events.jsonl")
    assert code == 0, stderr
    return place


@pytest.fixture
def place(priced: Place, tmp_path: Path) -> Place:
    """The same once more, with the cards beside it."""
    root = tmp_path / "place"
    shutil.copytree(priced.root, root, symlinks=True)  # links of the database lead within it
    (root / "new.yaml").write_text(NEW)
    (root / "old.yaml").write_text(OLD)
    return Place(root, priced.config)


def run(priced: Place, place: Place, *flags: str) -> tuple[int, str]:
    return place.run(f"file://{priced.root}/events.jsonl", *flags)


def rerate(place: Place, card: str, *flags: str) -> Any:
    path = str(place.root / card)
    return meterline("rerate", "--clickhouse", place.clickhouse, "--card", path, *ALL, *flags)


def applied(place: Place, card: str = "new.yaml") -> str:
    done = rerate(place, card, "--apply")
    assert done.returncode == 0, done.stderr
    return str(done.stderr)


def test_the_effect_is_shown_and_nothing_done_until_it_is_applied(place: Place) -> None:
    before = what_stands(place)
    shown = rerate(place, "new.yaml", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert "nothing was changed: --apply does it" in shown.stderr
    assert "1 events keep their rating: the rate card has no rate for model gone" in shown.stderr
    assert what_stands(place) == before
    cut = rerate(place, "new.yaml", "--limit", "1", "--format", "json")
    assert json.loads(cut.stdout) == {
        **json.loads(shown.stdout),
        "rows": json.loads(shown.stdout)["rows"][:1],
    }
    assert "2 rows of 'What rate card" in cut.stderr
    done = rerate(place, "new.yaml", "--apply", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, json.loads(shown.stdout)["rows"])
    totals = json.loads(shown.stdout)["totals"]
    assert place.ask("SELECT sum(m.cost), sum(m.price) FROM margin_daily AS m") == [
        (Decimal(totals["new cost"]), Decimal(totals["new price"]))
    ]
    assert place.ask("SELECT count() FROM rerates WHERE applied_at IS NOT NULL AND actor != ''") == [(1,)]


def test_spend_and_its_alerts_stay_as_charged_and_the_books_balance(place: Place) -> None:
    before = what_stands(place)
    applied(place)
    after = what_stands(place)
    assert after["margin"] != before["margin"]
    assert (after["spend"], after["alerts"]) == (before["spend"], before["alerts"])
    assert audit_of(place) == (0, "the books balance")


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("nothing", marks=pytest.mark.long),
        pytest.param("the state", marks=pytest.mark.long),
        pytest.param("the state, and the file is read again", marks=pytest.mark.long),
    ],
)
def test_a_rebuild_sums_what_was_charged(priced: Place, place: Place, lost: str) -> None:
    before = what_stands(place)["spend"]
    applied(place)
    after = what_stands(place)
    if lost != "nothing":
        shutil.rmtree(place.root / "state")
    again = ["--rebuild-state"] if lost != "the state, and the file is read again" else []
    code, stderr = run(priced, place, *again)
    assert code == 0, stderr
    assert what_stands(place)["spend"] == before
    assert what_stands(place)["rows"] == after["rows"]
    assert audit_of(place)[0] == 0, audit_of(place)


def test_a_configuration_is_kept_with_the_cards_that_it_names(place: Place) -> None:
    (place.root / "other.yaml").write_text("pricing: {cards: [new.yaml]}\n")
    applied(place, "other.yaml")
    (place.root / "new.yaml").unlink()
    names = place.ask("SELECT arrayMap(one -> one.1, card), card[2].2 FROM rerates")
    assert names == [([str(place.root / "other.yaml"), "new.yaml"], NEW)]


@pytest.mark.long
def test_there_and_back_by_the_command(place: Place) -> None:
    before = what_stands(place)
    applied(place)
    applied(place, "old.yaml")
    assert what_stands(place) == before


def test_differences_of_a_closed_month_are_booked_later(place: Place) -> None:
    before = what_stands(place)
    closed = meterline("close", "--clickhouse", place.clickhouse, "2026-03")
    assert (closed.returncode, closed.stdout) == (0, "closed: 2026-03\n"), closed.stderr
    days = {datetime.now(timezone.utc).date()}
    assert "40 events are of a closed month (2026-03): their rows stay" in applied(place)
    days.add(datetime.now(timezone.utc).date())
    after = what_stands(place)
    assert after["rows"] == before["rows"]
    booked = {key: figures for key, figures in after["margin"].items() if key not in before["margin"]}
    assert {key: after["margin"][key] for key in before["margin"]} == before["margin"]
    assert {figures[:7] for figures in booked.values()} == {(0,) * 7}
    assert {day for day, *_ in booked} <= days
    assert booked
    assert audit_of(place) == (0, "the books balance")
    opened = meterline("close", "--reopen", "--clickhouse", place.clickhouse, "2026-03")
    assert (opened.returncode, opened.stdout) == (0, "closed: no month\n"), opened.stderr
    applied(place)
    assert sum(row[-1] for row in what_stands(place)["margin"].values()) == sum(
        row[-1] for row in after["margin"].values()
    )
    assert audit_of(place) == (0, "the books balance")


def test_one_that_was_cut_off_is_said_and_finished_first(priced: Place, place: Place) -> None:
    with connect(parse_address(place.clickhouse)) as client:
        scope = Scope(date(2026, 3, 1), date(2026, 4, 1), "zenith")
        file = CardFile((("another.yaml", NEW),))
        version = compiled(pricing_of(file)).version
        rerate_log.begin(client, scope, file, version, "somebody", NOON_MS)
    begun = "re-rating 1 of somebody, begun at 2026-03-17 12:00:00 UTC"
    code, told = audit_of(place)
    assert code == 0
    assert "not recounted: spend by day, amid a re-rating" in told
    shown = rerate(place, "new.yaml")
    assert f"{begun}, is not finished: --apply finishes it first" in shown.stderr
    for command in (["close", "2026-03"], ["close", "--reopen", "2026-03"]):
        refused = meterline(*command, "--clickhouse", place.clickhouse)
        assert refused.returncode == 1
        assert refused.stderr == (
            f"meterline: {begun}, is not finished: `meterline rerate --apply` finishes it\n"
        )
    code, stderr = run(priced, place, "--rebuild-state")
    assert (code, "is not finished" in stderr) == (1, True)
    assert f"{begun}, was not finished: it is now" in applied(place, "old.yaml")
    trail = place.ask("SELECT rating, actor = 'somebody', events FROM rerates ORDER BY rating")
    assert trail == [(1, True, 20), (2, False, 20)]
    assert audit_of(place) == (0, "the books balance")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["rerate", "--from", "2026-02-01", "--to", "2026-02-01"], 2, "it must be later than --from"),
        (["rerate", "--from", "February", "--to", "2026-02-01"], 2, "does not match the format"),
        (["rerate", *ALL, "--card", "none.yaml"], 1, "the rate card none.yaml cannot be read: No such file"),
        (["rerate", *ALL, "--card", "wrong.yaml"], 1, "wrong.yaml rules[0].input_rate"),
        (["rerate", *ALL, "--card", "wrong.yaml"], 1, "wrong.yaml rules[1]"),
        (["close", "2026-13"], 2, "does not match the format"),
    ],
)
def test_each_mistake_is_a_sentence(tmp_path: Path, arguments: list[str], code: int, sentence: str) -> None:
    (tmp_path / "wrong.yaml").write_text(
        "rules: [{model: a, input_rate: -1, output_rate: 1}, {input_rate: 1, output_rate: 1}]"
    )
    (tmp_path / "right.yaml").write_text(NEW)
    (tmp_path / "ch").mkdir()
    if arguments[0] == "rerate" and "--card" not in arguments:
        arguments = [*arguments, "--card", "right.yaml"]
    found = meterline(*arguments, "--clickhouse", f"chdb://{tmp_path}/ch", cwd=tmp_path)
    assert (found.returncode, sentence in found.stderr) == (code, True), found.stderr
    assert "Traceback" not in found.stderr
