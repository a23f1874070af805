"""Events that no card could price are priced by themselves once one can, in the job that runs or the next."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.auditor import audit, load_config
from tests.auditor_event import lines_of_file
from tests.clickhouse_process import running_clickhouse
from tests.integration.running import JOB_SECONDS, QUICK, Place, audit_of, until, what_stands

pytestmark = pytest.mark.slow

NOON_MS = 1_773_748_800_000
OLD_CARD = "pricing: {rules: [{model: old, input_rate: 0.001, output_rate: 0}]}\n" + QUICK
NEWER = ", {model: newer, input_rate: 0.002, output_rate: 0}]}"
NEW_CARD = OLD_CARD.replace("]}", ", {model: new, input_rate: 0.01, output_rate: 0}]}")


def line(key: str, **fields: Any) -> bytes:
    event = {"idempotency_key": key, "tenant_id": "acme", "model": "new", "timestamp": NOON_MS}
    return json.dumps({**event, "input_tokens": 1, "output_tokens": 0, **fields}).encode() + b"\n"


def usage(place: Place) -> list[tuple[str, Decimal]]:
    try:
        return [
            (key, price)
            for key, price in place.ask(
                "SELECT idempotency_key, u.price FROM usage AS u ORDER BY idempotency_key"
            )
        ]
    except Exception:  # noqa: BLE001  # the tables are not there yet
        return []


def waiting(place: Place) -> int:
    return int(place.ask("SELECT count() FROM quarantine WHERE resolved_at IS NULL")[0][0])


def test_the_next_run_prices_what_its_card_knows_by_now(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("k1", model="old") + line("k2") + line("k3", model="unheard-of") + line("k2"))
    place = Place(tmp_path, OLD_CARD)
    assert place.run(f"file://{path}")[0] == 0
    assert (usage(place), waiting(place)) == ([("k1", Decimal("0.001"))], 3)

    place = Place(tmp_path, NEW_CARD)
    with path.open("ab") as file:
        file.write(line("k4"))
    for _ in range(2):  # the second time there is nothing left to do
        code, stderr = place.run(f"file://{path}")
        assert code == 0, stderr
        priced = [("k1", Decimal("0.001")), *((key, Decimal("0.01")) for key in ("k2", "k4"))]
        assert (usage(place), waiting(place)) == (priced, 1)
    assert place.ask("SELECT toUnixTimestamp64Milli(timestamp) FROM usage WHERE idempotency_key = 'k2'") == [
        (NOON_MS,)
    ]
    assert audit_of(place) == (0, "the books balance")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_running_job_takes_the_new_card_and_prices_what_waits(tmp_path: Path, workers: int) -> None:
    paths = [tmp_path / f"events-{number}.jsonl" for number in range(2)]
    for number, path in enumerate(paths):
        first = line(f"k{number}-old", model="old") + line(f"k{number}-newer", model="newer")
        path.write_bytes(first + line(f"k{number}-new") * 2)
    with running_clickhouse(tmp_path / "served") as served:
        place = Place(tmp_path, OLD_CARD, served=served.url())
        child = place.start(f"file://{tmp_path}/events-*.jsonl", "--follow", "--workers", str(workers))
        try:
            until(lambda: len(usage(place)) == 2 and waiting(place) == 6, "what the first card says")
            (tmp_path / "meterline.yaml").write_text(NEW_CARD)
            until(lambda: len(usage(place)) == 4, "what waited is priced")
            newest = NEW_CARD.replace("]}", NEWER)  # knows what no worker of this start has seen waiting
            (tmp_path / "meterline.yaml").write_text(newest)
            until(lambda: len(usage(place)) == 6, "what waited for the next card, too")
            for number, path in enumerate(paths):
                with path.open("ab") as file:
                    file.write(line(f"k{number}-late") + line(f"k{number}-new"))
            until(lambda: len(usage(place)) == 8, "the job goes on")
            time.sleep(0.5)  # for the copies
            assert child.poll() is None
            child.terminate()
            _, stderr = child.communicate(timeout=JOB_SECONDS)
        finally:
            child.kill()
        assert child.returncode == 0, stderr
        assert waiting(place) == 0
        lines = [item for path in paths for item in lines_of_file(path)]
        expected = audit(lines, load_config(newest), now_ms=NOON_MS)
        found = what_stands(place)
        assert {key[1]: amounts[1] for key, amounts in found["priced"].items()} == {
            key[1]: row.price for key, row in expected.priced.items()
        }
        assert audit_of(place)[0] == 0
