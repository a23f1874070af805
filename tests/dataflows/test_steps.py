"""The stateless steps: who is hashed where, how slices are cut and rated, and what becomes a row."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.batch import QUARANTINE_SCHEMA, RawBatch
from dataflows.decode import TimeBounds, decode
from dataflows.dedupe import CONFLICT, DUPLICATE, ORIGINAL
from dataflows.metering import _alert_rows
from dataflows.rate import refuse_unpriced
from dataflows.steps import (
    HOUR_MS,
    SETTLED_EVENTS,
    ShardCrossings,
    ShardVerdicts,
    alerts_of,
    content_hashes,
    judge,
    key_hashes,
    peak_of,
    split_by_key,
    split_by_tenant,
)
from dataflows.tables import priced_rows, quarantine_rows
from pricing.rate_card import compile_card
from pricing.settings import load_settings
from pricing.spend import SpendBook
from tests.auditor_cases import NOON_MS, fields
from tests.dataflows.stepped import DAY_MS, FILE, PLAIN, decoded, judged, rated, settings_of


def keys(*pairs: tuple[str, str], seed: int = 7) -> list[tuple[int, int]]:
    events = decoded(*(fields(tenant_id=tenant, idempotency_key=key) for tenant, key in pairs)).events
    assert len(events) == len(pairs)
    low, high = key_hashes(events, seed)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def test_no_two_pairs_of_tenant_and_key_are_one_text() -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("1:a", "b"), ("1", ":ab"), ("é", "x"), ("Ã", "©x"), ("a", "1:b")]
    assert len(set(keys(*pairs))) == len(pairs)


def test_a_hash_is_128_bits_of_the_pair_and_of_the_secret_seed() -> None:
    many = [("t", f"k-{number}") for number in range(2_000)]
    found = keys(*many)
    assert found == keys(*many)
    assert not set(found) & set(keys(*many, seed=8))
    for half in (0, 1):
        bits = sum((pair[half] >> bit) & 1 for pair in found for bit in range(64))
        assert abs(bits / (64 * len(found)) - 0.5) < 0.01
        assert len({pair[half] for pair in found}) == len(found)


@given(after_ms=st.lists(st.integers(0, 50), max_size=3 * SETTLED_EVENTS))
def test_a_batch_tells_its_greatest_times(after_ms: list[int]) -> None:
    times_ms = [NOON_MS + after for after in after_ms]
    tick = peak_of(
        decoded(*(fields(idempotency_key=f"k-{n}", timestamp=time) for n, time in enumerate(times_ms)))
    )
    assert tick.newest_ms == tuple(sorted(times_ms, reverse=True)[:SETTLED_EVENTS])
    assert tick.peak_ms == max(times_ms, default=-1)


names = st.sampled_from(["a", "b", "c", "d"])


@given(
    rows=st.lists(st.tuples(names, st.integers(0, 40), st.integers(0, 9)), max_size=60),
    shards=st.integers(1, 9),
)
def test_shards_get_every_event_once_in_order_with_its_own_columns(
    rows: list[tuple[str, int, int]], shards: int
) -> None:
    batch = decoded(
        *(
            fields(
                tenant_id=tenant, idempotency_key=f"k-{key}", timestamp=NOON_MS + late, input_tokens=number
            )
            for number, (tenant, key, late) in enumerate(rows)
        )
    )
    keyed, slices = split_by_key(batch, shards, seed=7)
    assert [one.shard for one in slices] == list(range(shards))
    assert all(one.tick == peak_of(batch) for one in slices)
    assert sorted(keyed.order.tolist()) == list(range(len(rows)))
    homes: dict[tuple[str, str], int] = {}
    start = 0
    for one in slices:
        events = keyed.events[keyed.order[start : start + len(one.sightings)]]
        start += len(one.sightings)
        assert events["offset"].is_sorted()
        assert one.sightings.time_ms.tolist() == events["timestamp_ms"].to_list()
        assert (one.sightings.position >> np.uint64(20)).tolist() == events["offset"].to_list()
        assert one.sightings.content.tolist() == content_hashes(events).tolist()
        for row in events.iter_rows(named=True):
            assert homes.setdefault((row["tenant_id"], row["idempotency_key"]), one.shard) == one.shard


@given(st.lists(st.sampled_from([ORIGINAL, DUPLICATE, CONFLICT]), min_size=1, max_size=40), st.integers(1, 9))
def test_each_event_gets_its_own_verdict(verdicts: list[int], shards: int) -> None:
    batch = decoded(*(fields(idempotency_key=f"k-{number}") for number in range(len(verdicts))))
    keyed, slices = split_by_key(rated(batch, settings_of()), shards, seed=7)
    wanted = np.array(verdicts, np.int8)[keyed.order]
    ends = np.cumsum([len(one.sightings) for one in slices])[:-1]
    found = judge(
        keyed,
        [
            ShardVerdicts(one.shard, one.tick, part, -1, "")
            for one, part in zip(slices, np.split(wanted, ends), strict=True)
        ],
    )
    by_verdict = {
        ORIGINAL: found.priced["offset"].to_list(),
        DUPLICATE: found.duplicates["offset"].to_list(),
        CONFLICT: found.quarantined["offset"].to_list(),
    }
    offsets = batch.events["offset"].to_list()
    assert by_verdict == {
        kind: [offset for offset, one in zip(offsets, verdicts, strict=True) if one == kind]
        for kind in (ORIGINAL, DUPLICATE, CONFLICT)
    }


def test_a_heartbeat_reaches_every_shard() -> None:
    empty = decode(RawBatch.heartbeat(FILE, 9, live=False), TimeBounds(1, 1))
    keyed, slices = split_by_key(rated(empty, settings_of()), 4, seed=7)
    assert [(one.shard, len(one.sightings)) for one in slices] == [(number, 0) for number in range(4)]
    assert {(one.tick.peak_ms, one.tick.live) for one in slices} == {(-1, False)}
    nothing = judge(
        keyed, [ShardVerdicts(one.shard, one.tick, np.empty(0, np.int8), 5, "") for one in slices]
    )
    spent, parts = split_by_tenant(nothing, 3, settings_of().limits)
    assert ([(one.shard, one.sums) for one in parts], spent.shards) == ([(0, None), (1, None), (2, None)], ())


@pytest.mark.parametrize(
    ("watermark_ms", "late"),
    [(-1, [False, False, False, True]), (NOON_MS + DAY_MS + 1, [False, True, True, True])],
)
def test_an_event_is_late_by_the_greatest_time_before_it_or_by_its_inputs_watermark(
    watermark_ms: int, late: list[bool]
) -> None:
    times = [NOON_MS + DAY_MS, NOON_MS, NOON_MS + 2, NOON_MS + 3]
    times[2:2] = [] if watermark_ms > 0 else [NOON_MS + DAY_MS + 1]
    events = [fields(idempotency_key=f"k-{number}", timestamp=time) for number, time in enumerate(times)][:4]
    # The days end at midnight; twelve hours later they are closed.
    assert judged(*events, watermark_ms=watermark_ms, retention_hours=12).priced["late"].to_list() == late


@pytest.mark.parametrize(
    ("zone", "behind_hours", "late"),
    [
        # the day ends at 24:00 UTC; the windows stay for two hours more
        ("UTC", 14, False),
        ("UTC", 14 + 1 / 3_600_000, True),
        ("America/New_York", 14 + 4, False),
        ("America/New_York", 18 + 1 / 3_600_000, True),
        ("Asia/Tokyo", 14 - 9, False),
        ("Asia/Tokyo", 5 + 1 / 3_600_000, True),
    ],
)
def test_an_event_is_late_once_the_watermark_is_past_its_days_end_and_the_retention(
    zone: str, behind_hours: float, late: bool
) -> None:
    overrides = f"limits: {{overrides: {{tenants: {{tenant-001: {{timezone: {zone}}}}}}}}}"
    watermark_ms = NOON_MS + round(behind_hours * HOUR_MS)
    found = judged(fields(), settings=settings_of(overrides), watermark_ms=watermark_ms, retention_hours=2)
    assert found.priced["late"].to_list() == [late]


def test_what_the_card_does_not_know_waits_before_it_can_claim_a_key() -> None:
    events = [fields(idempotency_key="a"), fields(idempotency_key="b", model="unheard-of", provider="x")]
    card = compile_card(settings_of().pricing.rules)
    found = refuse_unpriced(decoded(*events), card)
    assert (found.read, found.events["idempotency_key"].to_list()) == (2, ["a"])
    (waiting,) = found.quarantined.iter_rows(named=True)
    assert waiting["reason"] == "unpriced"
    assert waiting["detail"] == "the rate card has no rate for model unheard-of of provider x"
    assert waiting["raw"] == json.dumps(events[1]).encode()


CARD = """\
  - {model: gpt-4o, input_rate: 1e-6, output_rate: 2e-6, multiplier: 1.2, units: {pages: {rate: 0.5}}}
  - {model: gpt-4o, service_tier: flex, input_rate: 5e-7, output_rate: 1e-6}
"""


def test_units_and_contracts_are_priced_and_what_has_no_rate_waits_with_the_reason() -> None:
    contracts = "  contracts: [{tenant: acme, discount: 0.25}]"
    settings = load_settings(f"pricing:\n  rules:\n{CARD}{contracts}\n".replace("  - {", "    - {"))
    plain = {"input_tokens": 1000, "output_tokens": 100}
    events = [
        fields(idempotency_key="a", **plain),
        fields(idempotency_key="b", **plain, attributes={"unit.pages": "3"}),
        fields(idempotency_key="c", **plain, attributes={"unit.pages": "3"}, tenant_id="acme"),
        fields(idempotency_key="d", **plain, service_tier="flex", tenant_id="acme"),
        fields(idempotency_key="e", **plain, service_tier="flx"),
        fields(idempotency_key="f", **plain, attributes={"unit.searches": "1"}),
        fields(idempotency_key="g", **plain, attributes={"unit.pages": "many"}),
        fields(idempotency_key="h", **plain, attributes={"unit.output_audio_tokens": "101"}),
    ]
    found = judged(*events, settings=settings)
    assert list(found.priced.select("idempotency_key", "cost", "price", "multiplier").iter_rows()) == [
        # 1000 x 1e-6 + 100 x 2e-6 = 0.0012; x 1.2
        ("a", Decimal("0.0012"), Decimal("0.00144"), Decimal("1.2")),
        # + 3 x 0.5
        ("b", Decimal("1.5012"), Decimal("1.80144"), Decimal("1.2")),
        # x 0.75
        ("c", Decimal("1.5012"), Decimal("1.35108"), Decimal("0.9")),
        # 1000 x 5e-7 + 100 x 1e-6 = 0.0006; x 0.75
        ("d", Decimal("0.0006"), Decimal("0.00045"), Decimal("0.75")),
    ]
    card = compile_card(settings.pricing.rules, settings.pricing.contracts)
    waiting = refuse_unpriced(decoded(*events), card).quarantined
    assert sorted(waiting.select("reason", "detail").rows()) == [
        ("inconsistent_usage", "attributes: parts of the output tokens exceed them"),
        ("invalid_value", "attributes: unit.pages is not a whole number of 0 or more"),
        ("unpriced", "the rate card has no rate for service_tier 'flx' of model gpt-4o of provider "),
        ("unpriced", "the rate card has no rate for unit searches of model gpt-4o"),
    ]


def test_the_providers_own_rule_wins_and_what_is_not_billable_costs_all_the_same() -> None:
    rules = (
        "[{model: gpt-4o, input_rate: 1, output_rate: 2, confirm_rates_above: 2}, {provider: azure,"
        " model: gpt-4o, input_rate: 3, output_rate: 0, multiplier: 1.5, confirm_rates_above: 3}]"
    )
    events = [
        fields(idempotency_key="a", input_tokens=10, output_tokens=1),
        fields(idempotency_key="b", provider="azure", input_tokens=10, output_tokens=1),
        fields(idempotency_key="c", provider="other", input_tokens=10, output_tokens=1),
        fields(idempotency_key="e", input_tokens=10, output_tokens=1, status="error"),
        fields(idempotency_key="f", input_tokens=10, output_tokens=1, cache_status="hit"),
    ]
    found = judged(*events, settings=settings_of(rules=rules))
    columns = ("idempotency_key", "cost", "price", "multiplier", "billable")
    assert list(found.priced.select(columns).iter_rows()) == [
        ("a", Decimal(12), Decimal(12), Decimal(1), True),
        ("b", Decimal(30), Decimal(45), Decimal("1.5"), True),
        ("c", Decimal(12), Decimal(12), Decimal(1), True),
        ("e", Decimal(12), Decimal(0), Decimal(1), False),
        ("f", Decimal(0), Decimal(0), Decimal(1), False),
    ]


def test_amounts_beyond_64_bits_are_exact_beside_small_ones() -> None:
    events = [
        fields(idempotency_key="small", input_tokens=1, output_tokens=0),
        fields(idempotency_key="huge", input_tokens=2**40, output_tokens=2**40),
    ]
    rules = "[{model: gpt-4o, input_rate: 999, output_rate: 0.3, confirm_rates_above: 999}]"
    found = judged(*events, settings=settings_of(rules=rules))
    assert found.priced["cost"].to_list() == [Decimal(999), 2**40 * Decimal("999.3")]


def test_split_by_tenant_keeps_late_events_out_and_every_tenant_in_one_place() -> None:
    events = [
        fields(idempotency_key=f"k-{one}", tenant_id=f"t-{one % 7}", input_tokens=one, output_tokens=0)
        for one in range(50)
    ]
    events[30]["timestamp"] = NOON_MS - 10 * DAY_MS
    found = judged(*events)
    assert found.priced.filter("late")["idempotency_key"].to_list() == ["k-30"]
    spent, parts = split_by_tenant(found, 3, settings_of().limits)
    assert [(part.shard, part.tick) for part in parts] == [(shard, found.tick) for shard in range(3)]
    assert spent.rows["price"].to_list() == [one for one in range(50) if one != 30]
    sums = {part.shard: part.sums for part in parts if part.sums is not None}
    assert tuple(sums) == spent.shards
    assert len(sums) > 1
    assert sum(len(set(part["tenant_id"])) for part in sums.values()) == 7
    everything = pl.concat(sums.values())
    assert (everything["price"].sum(), everything["events"].sum()) == (spent.rows["price"].sum(), 49)


def test_alerts_name_their_events_and_go_where_the_outbox_is() -> None:
    settings = settings_of("limits: {tenant: {daily_cap: 2500}}")  # an event is 1,400
    events = [fields(idempotency_key=f"k-{one}", tenant_id=f"t-{one % 3}") for one in range(6)]
    spent, parts = split_by_tenant(judged(*events, settings=settings), 4, settings.limits)
    found = []
    for part in parts:
        if part.sums is not None:
            _, crossings = SpendBook(settings.limits, (Decimal("0.5"), Decimal(1))).add(part.sums)
            found.append(ShardCrossings(part.shard, part.tick, tuple(crossings), ""))
    alerts = alerts_of(spent, found)
    assert sorted((alert.tenant_id, alert.threshold, alert.crossing_key) for alert in alerts) == [
        (f"t-{one % 3}", threshold, f"k-{one}")
        for one, threshold in zip((0, 3, 1, 4, 2, 5), (Decimal("0.5"), Decimal(1)) * 3, strict=True)
    ]
    assert list(_alert_rows(("", alerts))) == [("0", alert) for alert in alerts]


def test_rows_of_tables_keep_the_position_and_lose_no_column() -> None:
    found = judged(PLAIN)
    (row,) = priced_rows(found.priced).iter_rows(named=True)
    told = {
        name: value
        for name, value in PLAIN.items()
        if name not in ("timestamp", "provider_cost", "attributes")
    }
    assert {name: row[name] for name in told} == told
    assert row["provider_cost"] == Decimal("0.25")
    assert json.loads(row["attributes"]) == PLAIN["attributes"]
    assert int(row["timestamp"].timestamp() * 1000) == NOON_MS
    position = [row[name] for name in ("source", "source_partition", "source_offset", "source_line")]
    assert position == ["/data/events.jsonl", 0, 1, 0]


def test_quarantined_bytes_lose_the_newline_that_ended_the_line_and_no_other() -> None:
    raws = [b"a\n", b"b", b"c\n\n", b"\n"]
    nothing = dict.fromkeys(("reason", "detail", "tenant_id", "model"), "")
    rows = [{**nothing, "offset": 1, "line": 0, "raw": raw} for raw in raws]
    frame = pl.DataFrame(rows, schema=QUARANTINE_SCHEMA)
    assert quarantine_rows(frame, FILE)["raw"].to_list() == [b"a", b"b", b"c\n", b""]
