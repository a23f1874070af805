from __future__ import annotations

import hashlib
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflows.traffic import CHUNK_LINES, TrafficShape, TrafficSummary, generate, write_day
from dataflows.traffic_events import Role, arrivals_of, usage_of
from dataflows.traffic_shape import (
    CHAT_INPUT,
    CHAT_OUTPUT,
    CODE_INPUT,
    CODE_OUTPUT,
    MODELS,
    PREFIX_HIT_PER_MILLE,
    Draw,
    mean,
    tenants_of,
    words,
)
from tests.auditor import Audit, audit, load_config
from tests.auditor_event import Line, lines_of_file, read_event
from tests.azure_trace import read_trace, trace_path

DAY = date(2025, 6, 1)
DAY_START_MS = 1_748_736_000_000
HOUR_MS = 3_600_000
NOW_MS = DAY_START_MS + 365 * 24 * HOUR_MS

RATES = """
pricing:
  rules:
    - {model: gpt-4o, service_tier: "*", input_rate: 0.000005, output_rate: 0.000015}
    - {model: claude-3-5-sonnet, service_tier: "*", input_rate: 0.000003, output_rate: 0.000015}
    - {model: fallback-llama-3, service_tier: "*", input_rate: 0.0000005, output_rate: 2e-6, multiplier: 0.8}
limits:
  tenant: {daily_cap: 50.00, burst_threshold: 0.8}
"""


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrafficSummary, Path]:
    path = tmp_path_factory.mktemp("traffic") / "day.jsonl"
    return write_day(TrafficShape(30_000, 7, DAY), path), path


@pytest.fixture(scope="module")
def audited(day: tuple[TrafficSummary, Path]) -> Audit:
    return audit(lines_of_file(day[1]), load_config(RATES), now_ms=NOW_MS)


@pytest.fixture(scope="module")
def events(day: tuple[TrafficSummary, Path]) -> list[dict[str, Any]]:
    """Every line that is a JSON object, as it stands in the file."""
    found = []
    for line in day[1].read_bytes().splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            found.append(document)
    return found


def test_a_shape_gives_the_same_bytes_on_every_machine() -> None:
    shape = TrafficShape(5_000, 1, DAY)

    digest = hashlib.sha256(b"".join(generate(shape))).hexdigest()

    assert digest == "f7805724c55fe5ebb5332a7321b18b37d4ba05ce0709e08b2cccfe7dd7d41e34"
    assert digest != hashlib.sha256(b"".join(generate(TrafficShape(5_000, 2, DAY)))).hexdigest()


def test_a_draw_depends_on_nothing_but_its_number() -> None:
    together = words(3, Draw.INPUT, np.arange(1000, dtype=np.int64))

    alone = [int(words(3, Draw.INPUT, np.array([number]))[0]) for number in range(0, 1000, 99)]

    assert together[::99].tolist() == alone
    assert len(np.unique(together)) == 1000
    assert not np.isin(together, words(3, Draw.OUTPUT, np.arange(1000, dtype=np.int64))).any()


def test_chunks_hold_whole_lines_and_as_many_as_were_asked_for(tmp_path: Path) -> None:
    shape = TrafficShape(CHUNK_LINES + 500, 7, DAY)

    chunks = list(generate(shape))
    summary = write_day(shape, tmp_path / "day.jsonl")

    assert [chunk.count(b"\n") for chunk in chunks] == [CHUNK_LINES, 500]
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert (tmp_path / "day.jsonl").read_bytes() == b"".join(chunks)
    assert [path.name for path in tmp_path.iterdir()] == ["day.jsonl"]
    assert summary.bytes == sum(map(len, chunks))
    assert summary.duplicates_next_day > 0


def test_the_auditor_finds_what_was_planted(day: tuple[TrafficSummary, Path], audited: Audit) -> None:
    summary, _ = day
    reasons: dict[str, int] = {}
    for _, reason in audited.quarantined:
        reasons[reason] = reasons.get(reason, 0) + 1

    assert audited.read == summary.lines == 30_000
    assert len(audited.priced) == summary.priced
    assert len(audited.duplicates) == summary.duplicates == 900 - summary.unpriced_copies
    assert summary.unpriced_copies > 0
    assert reasons == summary.quarantine_reasons
    assert reasons["idempotency_conflict"] == summary.conflicts == 3
    assert reasons["timestamp_in_future"] == summary.future == 1
    assert reasons["unpriced"] == summary.unpriced
    assert sum(reasons.values()) == summary.malformed + summary.conflicts + summary.future + summary.unpriced
    rows = [row.event for row in audited.priced.values()]
    assert sum(event.cache_status == "hit" for event in rows) == summary.cache_hits
    assert sum(event.status != "success" for event in rows) == summary.failures
    assert not any(row.late for row in audited.priced.values())


def test_every_way_to_break_a_line_has_the_reason_that_it_claims(tmp_path: Path) -> None:
    shape = TrafficShape(1_000, 5, DAY, malformed_fraction=0.2)
    summary = write_day(shape, tmp_path / "day.jsonl")

    found = audit(lines_of_file(tmp_path / "day.jsonl"), load_config(RATES), now_ms=NOW_MS)

    reasons = sorted(reason for _, reason in found.quarantined)
    assert reasons == sorted(r for r, count in summary.quarantine_reasons.items() for _ in range(count))
    assert len(set(reasons)) == 13


def test_only_the_runaway_breaks_the_cap_and_does_so_in_the_afternoon(audited: Audit) -> None:
    crossings = {
        (tenant, threshold): (crossing.event_ms - DAY_START_MS) / HOUR_MS
        for (tenant, _, _, _, threshold), crossing in audited.alerts.items()
    }

    assert set(crossings) == {("tenant-runaway", Decimal("0.8")), ("tenant-runaway", Decimal(1))}
    assert 13 < crossings["tenant-runaway", Decimal("0.8")] < crossings["tenant-runaway", Decimal(1)] < 18


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2_000, 10_000])
def test_the_runaway_breaks_the_cap_whatever_the_size(size: int, seed: int) -> None:
    chunks = b"".join(generate(TrafficShape(size, seed, DAY))).splitlines()
    lines = [Line("day", 0, 0, number, line) for number, line in enumerate(chunks)]

    found = audit(lines, load_config(RATES), now_ms=NOW_MS)

    assert {alert[0] for alert in found.alerts} == {"tenant-runaway"}
    assert len(found.alerts) == 2


def test_at_volume_the_others_stay_below_the_cap_and_some_come_close() -> None:
    shape = TrafficShape(400_000, 7, DAY)
    arrivals = arrivals_of(shape, tenants_of(shape))
    usage = usage_of(shape, tenants_of(shape), arrivals)
    rates = np.array([(model.input_rate, model.output_rate) for model in MODELS])[usage.model]
    percent = np.array([model.price for model in MODELS])[usage.model]
    price = (usage.input_tokens * rates[:, 0] + usage.output_tokens * rates[:, 1]) * percent
    paid = (arrivals.role == Role.ORIGINAL) & (usage.status == 0) & ~usage.hit
    spend_usd = np.bincount(usage.tenant, np.where(paid, price, 0)) / 1e9

    assert spend_usd[0] > 50
    assert 40 < max(spend_usd[1:]) < 50
    assert 25 < np.sort(spend_usd[1:])[-10] < 40


def test_a_tenth_of_the_tenants_makes_three_quarters_of_the_traffic(audited: Audit) -> None:
    counts: dict[str, int] = {}
    for row in audited.priced.values():
        if row.event.tenant_id != "tenant-runaway":
            counts[row.event.tenant_id] = counts.get(row.event.tenant_id, 0) + 1
    busiest = sorted(counts.values(), reverse=True)

    # ServeGen's m-large: 74 % and 16 %.
    assert 0.71 < sum(busiest[:30]) / sum(busiest) < 0.77
    assert 0.14 < busiest[0] / sum(busiest) < 0.20


def test_the_day_has_a_rhythm(audited: Audit) -> None:
    hours = [0] * 24
    for row in audited.priced.values():
        if row.event.tenant_id != "tenant-runaway":
            hours[(row.event.timestamp - DAY_START_MS) // HOUR_MS] += 1

    assert max(hours) > 1.2 * min(hours)
    assert min(hours) > 500


@pytest.mark.parametrize(
    ("table", "trace_mean"),
    [
        (CODE_INPUT, 2047.8),
        (CODE_OUTPUT, 27.9),
        (CHAT_INPUT, 12035.1),
        (CHAT_OUTPUT, 342.6),
        (PREFIX_HIT_PER_MILLE, 409.4),
    ],
)
def test_lengths_keep_the_means_of_their_traces(table: Any, trace_mean: float) -> None:
    assert mean(table) == pytest.approx(trace_mean, rel=0.04)


def test_events_look_like_those_of_a_product(events: list[dict[str, Any]]) -> None:
    assert {event.get("feature_id") for event in events} >= {
        "chat",
        "summarise",
        "search",
        "agent",
        "extract",
    }
    assert {(event.get("provider"), event.get("model")) for event in events} >= {
        ("openai", "gpt-4o"),
        ("anthropic", "claude-3-5-sonnet"),
        ("self-hosted", "fallback-llama-3"),
        ("openai", "gpt-4o-mini-preview"),
    }
    for field in ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens"):
        assert sum(event.get(field, 0) > 0 for event in events) > 30, field
    for field in ("provider_cost", "attributes", "service_tier", "usage_source"):
        assert 100 < sum(field in event for event in events) < len(events), field
    stamps = [event.get("timestamp") for event in events]
    texts = [stamp for stamp in stamps if isinstance(stamp, str)]
    assert sum(text.endswith("Z") for text in texts) > len(stamps) * 0.7
    assert sum(text.endswith("+02:00") for text in texts) > 100
    assert sum(isinstance(stamp, int) for stamp in stamps) > 100
    # A cached answer costs nothing, so no gateway says what it cost.
    assert not any("provider_cost" in event for event in events if event.get("cache_status") == "hit")


def test_a_retry_repeats_its_event_with_a_new_time(events: list[dict[str, Any]]) -> None:
    first: dict[str, dict[str, Any]] = {}
    copies = []
    for event in events:
        if event.get("tenant_id") and event["idempotency_key"] in first:
            copies.append((first[event["idempotency_key"]], event))
        first.setdefault(event["idempotency_key"], event)

    assert len(copies) >= 900
    assert all(copy["retry_count"] >= 1 for _, copy in copies)
    assert all(copy["timestamp"] != original["timestamp"] for original, copy in copies)
    assert sum(copy["latency_ms"] != original["latency_ms"] for original, copy in copies) > 800
    times = [[read_event(json.dumps(event).encode()).timestamp for event in pair] for pair in copies]
    delays_ms = sorted(later - earlier for earlier, later in times)
    assert 1_000 <= delays_ms[0] < delays_ms[len(delays_ms) // 2] < 60_000
    assert 4 * HOUR_MS < delays_ms[-1] < 8 * HOUR_MS
    assert max(later for _, later in times) < DAY_START_MS + 25 * HOUR_MS


def test_some_events_arrive_long_after_their_time(day: tuple[TrafficSummary, Path], audited: Audit) -> None:
    newest_ms, overtaken = 0, 0
    for row in audited.priced.values():
        overtaken += row.event.timestamp < newest_ms - 5 * 60_000
        newest_ms = max(newest_ms, row.event.timestamp)

    assert day[0].late_arrivals > 200
    assert overtaken == pytest.approx(day[0].late_arrivals, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"events": 99},
        {"tenants": 9},
        {"duplicate_fraction": -0.1},
        {"cache_hit_fraction": 1.5},
        {"duplicate_fraction": 0.4, "malformed_fraction": 0.2},
        {"future_events": -1},
        {"future_events": 101},
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        TrafficShape(**{"events": 1000, "seed": 1, "day": DAY, **changes})


def test_trouble_can_be_left_out(tmp_path: Path) -> None:
    quiet = TrafficShape(
        500, 1, DAY, duplicate_fraction=0, conflict_fraction=0, malformed_fraction=0, future_events=0
    )
    summary = write_day(quiet, tmp_path / "day.jsonl")

    assert summary.originals == 500
    assert set(summary.quarantine_reasons) == {"unpriced"}


# ---------------------------------------------------------------------------------------------
# The Azure trace


def test_the_trace_becomes_events_of_which_each_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:17:{n // 2:02d}.9799600,{100 + n},{n}\n" for n in range(40))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)

    trace = read_trace(path, seed=3)

    lines = [Line("trace", 0, 0, number, line) for number, line in enumerate(trace.lines)]
    found = audit(lines, load_config(RATES), now_ms=NOW_MS)
    # 40 x 100 + (0 + ... + 39 = 780) prompt tokens, 780 answer tokens: 4780 x 0.000005 + 780 x 0.000015.
    assert (trace.input_tokens, trace.output_tokens) == (4780, 780)
    assert sum(row.cost for row in found.priced.values()) == Decimal("0.0356")
    assert (len(found.priced), len(found.duplicates), found.quarantined) == (40, 2, [])
    assert trace == read_trace(path, seed=3)
    assert trace != read_trace(path, seed=4)


def test_the_real_trace_is_priced_to_the_last_digit() -> None:
    path = trace_path()
    if path is None:
        pytest.skip("the Azure trace is not here; METERLINE_TRACE_DIR names its directory")
    trace = read_trace(path, seed=11)

    lines = [Line("trace", 0, 0, number, line) for number, line in enumerate(trace.lines)]
    found = audit(lines, load_config(RATES), now_ms=NOW_MS)

    assert (trace.originals, trace.duplicates) == (8819, 441)
    assert (len(found.priced), len(found.duplicates), found.quarantined) == (8819, 441, [])
    expected = trace.input_tokens * Decimal("0.000005") + trace.output_tokens * Decimal("0.000015")
    assert sum(row.cost for row in found.priced.values()) == expected
