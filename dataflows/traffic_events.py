"""The events of a generated day: which arrives when, and what its fields are. Columns only, no bytes.

An event is a number, and its fields are a pure function of (seed, number). So all that has to be
kept and sorted is which number arrives when, in which role.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dataflows.traffic_shape import (
    AGENT,
    CLAUDE,
    DAY_MS,
    FEATURE_MIXES,
    FEATURES,
    GPT,
    HOUR_MS,
    MODELS,
    PREFIX_HIT_PER_MILLE,
    PREVIEW,
    SECOND_MODEL_PER_CENT,
    Bools,
    Draw,
    Int64s,
    Tenants,
    TrafficShape,
    Words,
    below,
    happens,
    minute_weights,
    pick,
    quantile,
    words,
)

CONTEXT_TOKENS_MAX = 128_000
CACHEABLE_TOKENS_MIN = 1_024
MINUTE_MS = 60_000
LATE_MS_MIN, LATE_MS_MAX = 5 * MINUTE_MS, 6 * HOUR_MS
CLOCK_IN_2099_MS = 4_070_908_800_000


# ---------------------------------------------------------------------------------------------
# When: which event arrives as which line


class Role(IntEnum):
    """What a line is there for."""

    ORIGINAL = 0
    DUPLICATE = 1
    CONFLICT = 2
    MALFORMED = 3
    FUTURE = 4


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Columns by line, in the order of arrival.

    `number` says whose fields the line carries and `occurrence` is its own: the two differ on copies
    and conflicts. A line arrived `lag_ms` after it happened.
    """

    number: Int64s
    occurrence: Int64s
    role: npt.NDArray[np.int8]
    event_ms: Int64s
    lag_ms: Int64s

    def rows(self, start: int, stop: int) -> Arrivals:
        """Some of the lines."""
        part = slice(start, stop)
        return Arrivals(
            self.number[part], self.occurrence[part], self.role[part], self.event_ms[part], self.lag_ms[part]
        )


def _tenants(shape: TrafficShape, tenants: Tenants, number: Int64s) -> Int64s:
    ordinary = pick(words(shape.seed, Draw.TENANT, number), tenants.weights)
    return np.where(number < shape.runaway_events, 0, ordinary)


LOOP_START_MS = 13 * HOUR_MS
LOOP_MS = 4 * HOUR_MS + HOUR_MS // 2
LOOP_SPEND_USD = 140
"""When the runaway's agent starts to call itself, how long until somebody notices, and what it comes to."""

_PROGRESS_BITS = 20


def _is_loop(shape: TrafficShape, number: Int64s) -> Bools:
    return (number >= shape.runaway_events // 10) & (number < shape.runaway_events)


def _loop_progress(shape: TrafficShape, number: Int64s) -> Int64s:
    """How far into the loop a call is, of 2**20: the larger of two draws, so calls come ever faster."""
    first = below(words(shape.seed, Draw.TIME, number), 2**_PROGRESS_BITS)
    return np.maximum(first, below(words(shape.seed, Draw.LOOP, number), 2**_PROGRESS_BITS))


def _loop_input_tokens(shape: TrafficShape) -> int:
    """What the loop's prompts are multiplied from: enough for its spend, at most half a context window."""
    calls = shape.runaway_events - shape.runaway_events // 10
    # Prompts grow to 1.2 of this on average, and answers are a fiftieth of them. Rates are 10**-7 USD.
    per_token = 1.2 * (MODELS[GPT].input_rate + MODELS[GPT].output_rate / 50) / 10**7
    return min(int(LOOP_SPEND_USD / (calls * per_token)), CONTEXT_TOKENS_MAX // 2)


def _event_times(shape: TrafficShape, tenants: Tenants, number: Int64s) -> Int64s:
    """Milliseconds into the day."""
    word = words(shape.seed, Draw.TIME, number)
    within = below(word << np.uint64(32), MINUTE_MS)
    shift = tenants.shift_hours[_tenants(shape, tenants, number)] * HOUR_MS
    rhythm = (pick(word, minute_weights()) * MINUTE_MS + within + shift) % DAY_MS
    loop = LOOP_START_MS + (_loop_progress(shape, number) * LOOP_MS >> _PROGRESS_BITS)
    return np.where(_is_loop(shape, number), loop, rhythm)


def _copy_delays(word: Words) -> Int64s:
    """A client's retry after seconds, a job's after minutes, a replayed queue's after hours."""
    length = word << np.uint64(32)
    how = below(word, 10)
    seconds = 1_000 + below(length, 30_000)
    minutes = MINUTE_MS + below(length, 59 * MINUTE_MS)
    hours = HOUR_MS + below(length, 7 * HOUR_MS)
    return np.where(how < 6, seconds, np.where(how < 9, minutes, hours))


def day_start_ms(shape: TrafficShape) -> int:
    """Midnight UTC."""
    day = shape.day
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) * 1000


def arrivals_of(shape: TrafficShape, tenants: Tenants) -> Arrivals:
    """Every line of the day, fields aside."""
    originals, lone = shape.originals, shape.malformed + shape.future_events
    number = np.arange(originals + lone, dtype=np.int64)
    event_ms = _event_times(shape, tenants, number)
    word = words(shape.seed, Draw.ARRIVAL, number)
    late = words(shape.seed, Draw.LATE, number)
    delay = LATE_MS_MIN + below(late << np.uint64(32), LATE_MS_MAX - LATE_MS_MIN)
    lag_ms = 50 + below(word, 2_000) + np.where(happens(late, shape.late_fraction), delay, 0)

    occurrence = originals + lone + np.arange(shape.duplicates + shape.conflicts, dtype=np.int64)
    target = below(words(shape.seed, Draw.TARGET, occurrence), originals)
    delay = _copy_delays(words(shape.seed, Draw.DELAY, occurrence))
    # A copy keeps within an hour of the day's end, so that yesterday can be loaded soon after midnight.
    delay = np.where(event_ms[target] + delay >= DAY_MS + HOUR_MS, 1_000 + delay % (10 * MINUTE_MS), delay)

    counts = (originals, shape.malformed, shape.future_events, shape.duplicates, shape.conflicts)
    roles = (Role.ORIGINAL, Role.MALFORMED, Role.FUTURE, Role.DUPLICATE, Role.CONFLICT)
    role = np.repeat(np.array(roles, np.int8), counts)
    happened_ms = np.concatenate([event_ms, event_ms[target] + delay])
    all_lags_ms = np.concatenate([lag_ms, lag_ms[target]])
    order = np.argsort(happened_ms + all_lags_ms, kind="stable")
    clock_ms = np.where(role == Role.FUTURE, CLOCK_IN_2099_MS, happened_ms + day_start_ms(shape))
    return Arrivals(
        number=np.concatenate([number, target])[order],
        occurrence=np.concatenate([number, occurrence])[order],
        role=role[order],
        event_ms=clock_ms[order],
        lag_ms=all_lags_ms[order],
    )


# ---------------------------------------------------------------------------------------------
# What: the fields of an event, by column

_MIX_CUMULATIVE = np.cumsum(np.array(FEATURE_MIXES, np.int64), axis=1)
_INPUTS = np.stack([feature.input for feature in FEATURES])
_OUTPUTS = np.stack([feature.output for feature in FEATURES])
_PREFIX_HITS = PREFIX_HIT_PER_MILLE.reshape(1, -1)
_PREFIX_CACHED = np.array([feature.prefix_cached for feature in FEATURES])
_LOW_HALF = np.uint64(32)

SUCCESS, ERROR, VALIDATION_FAILED = range(3)


@dataclass(frozen=True, slots=True)
class Usage:
    """Columns by line.

    `tenant`, `feature` and `model` index the shape's tables, `status` and `usage_source` their words in
    the contract; the rest are the event's own numbers.
    """

    tenant: Int64s
    feature: Int64s
    model: Int64s
    input_tokens: Int64s
    output_tokens: Int64s
    cache_read_tokens: Int64s
    cache_write_tokens: Int64s
    cache_write_1h_tokens: Int64s
    reasoning_tokens: Int64s
    latency_ms: Int64s
    retry_count: Int64s
    hit: Bools
    status: Int64s
    usage_source: Int64s


def usage_of(shape: TrafficShape, tenants: Tenants, rows: Arrivals) -> Usage:
    """The fields of the events on these lines."""

    def draw(what: Draw) -> Words:
        return words(shape.seed, what, rows.number)

    loop = _is_loop(shape, rows.number)
    tenant = _tenants(shape, tenants, rows.number)
    feature, model = _asked(shape, tenants, rows.number, tenant)
    inputs, outputs = _lengths(shape, rows.number, feature, tenants.length_per_mille[tenant])

    word = draw(Draw.FATE)
    hit = happens(word, shape.cache_hit_fraction) & ~loop
    failed = happens(word << _LOW_HALF, shape.failure_fraction) & ~hit
    status = np.where(failed, np.where(word & np.uint64(3) == 0, VALIDATION_FAILED, ERROR), SUCCESS)
    outputs = np.where(status == ERROR, 0, outputs)
    read, write, write_1h = _cached(shape, rows.number, feature, model, inputs)
    word = draw(Draw.REASONING)
    thinks = (feature == AGENT) & (word & np.uint64(3) == 0)
    reasoning = np.where(thinks, outputs * (300 + below(word, 500)) // 1000, 0)

    own = words(shape.seed, Draw.LATENCY, rows.occurrence)
    answered = 180 + below(own, 400) + inputs // 100 + outputs * (8 + below(own << _LOW_HALF, 20))
    word = words(shape.seed, Draw.RETRY, rows.occurrence)
    # A conflict says something else under a key that is taken.
    outputs = outputs + np.where(rows.role == Role.CONFLICT, 1 + below(word << _LOW_HALF, 50), 0)
    source = below(draw(Draw.DETAIL), 100)
    return Usage(
        tenant=tenant,
        feature=feature,
        model=model,
        input_tokens=inputs,
        output_tokens=outputs,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        reasoning_tokens=reasoning,
        latency_ms=np.where(hit, 3 + below(own, 40), answered),
        retry_count=np.where(rows.occurrence != rows.number, 1 + below(word, 3), below(word, 64) == 0),
        hit=hit,
        status=status,
        usage_source=np.where(source < 97, 0, np.where(source < 99, 1, 2)),
    )


def _asked(shape: TrafficShape, tenants: Tenants, number: Int64s, tenant: Int64s) -> tuple[Int64s, Int64s]:
    """The feature and the model of each event."""
    loop = _is_loop(shape, number)
    cumulative = _MIX_CUMULATIVE[tenants.mixes[tenant]]
    feature = (below(words(shape.seed, Draw.FEATURE, number), 100)[:, None] >= cumulative).sum(axis=1)
    word = words(shape.seed, Draw.MODEL, number)
    strays = below(word << _LOW_HALF, 100) < SECOND_MODEL_PER_CENT
    model = np.where(strays, tenants.second_models[tenant], tenants.models[tenant])
    model = np.where(happens(word, shape.unpriced_fraction), PREVIEW, model)
    return np.where(loop, AGENT, feature), np.where(loop, GPT, model)


def _lengths(
    shape: TrafficShape, number: Int64s, feature: Int64s, per_mille: Int64s
) -> tuple[Int64s, Int64s]:
    """Prompt and answer tokens, all included. In the loop the context grows with every call."""
    loop = _is_loop(shape, number)
    word = words(shape.seed, Draw.INPUT, number)
    growth = 400 + (1200 * _loop_progress(shape, number) >> _PROGRESS_BITS)
    looped = _loop_input_tokens(shape) * growth * (750 + below(word, 500)) // 1_000_000
    natural = quantile(_INPUTS, feature, word) * per_mille // 1000
    inputs = np.clip(np.where(loop, looped, natural), 1, CONTEXT_TOKENS_MAX)
    outputs = quantile(_OUTPUTS, feature, words(shape.seed, Draw.OUTPUT, number)) * per_mille // 1000
    return inputs, np.maximum(np.where(loop, inputs // 50, outputs), 1)


def _cached(
    shape: TrafficShape, number: Int64s, feature: Int64s, model: Int64s, inputs: Int64s
) -> tuple[Int64s, Int64s, Int64s]:
    """Prompt tokens read from the provider's cache, written to it, and written for an hour."""
    cacheable = _PREFIX_CACHED[feature] & (inputs >= CACHEABLE_TOKENS_MIN)
    hit = quantile(_PREFIX_HITS, 0, words(shape.seed, Draw.CACHE_READ, number))
    read = np.where(cacheable & ((model == GPT) | (model == CLAUDE)), inputs * hit // 1000, 0)
    # One provider caches in steps of 128 tokens, and reports no writes.
    read = np.where(model == GPT, read // 128 * 128, read)
    word = words(shape.seed, Draw.CACHE_WRITE, number)
    writes = cacheable & (model == CLAUDE) & (word & np.uint64(1) == 0)
    write = np.where(writes, (inputs - read) * below(word, 900) // 1000, 0)
    return read, write, np.where(word & np.uint64(14) == 0, write, 0)
