"""The shape of a believable day: how much, by whom, when and how long. Numbers only; no event is built here.

Everything is drawn from counters: a draw is a hash of (seed, what it is for, which event), in
64-bit integers. So an event's fields depend on nothing but its number, and the same seed gives the
same bytes on every machine, whatever the version of NumPy or the width of its vectors.

The numbers are fitted to public traces, none of which is in this repository; joining them is our
own doing, so the day is synthetic:

- Lengths of searches, extractions and summaries' prompts: the Azure LLM inference trace of
  November 2023, "code" (Azure/AzurePublicDataset, CC-BY-4.0; Patel et al., Splitwise, ISCA 2024).
- Lengths of chats and agents' prompts, and how much of a prompt a prefix cache already holds: the
  Mooncake conversation trace (kvcache-ai/Mooncake, Apache-2.0; hits counted over its 512-token
  prefix blocks with an unbounded cache).
- How unequal tenants are, and the rhythm of a day: ServeGen (alibaba/ServeGen, Apache-2.0). The
  busiest 10 % of the clients of its `m-large` make 74 % of the requests, the busiest one 16 %; a
  log-normal with sigma 2 gives 74 % and 17 %. The rhythm is that of its `m-small`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RUNAWAY_TENANT = "tenant-runaway"
DAILY_CAP_USD = 50.0
"""The cap that the day is made for: one tenant breaks it, every other stays below."""


@dataclass(frozen=True, slots=True)
class TrafficShape:
    """What to generate. The same shape gives the same bytes, always.

    `events` is the number of lines, each kind of trouble included; `day` is the UTC day of the events'
    own times. A few copies carry a time of up to one hour after the day's end, so for a source that
    refuses what lies in the future the day must have ended an hour ago. Fractions are of all lines,
    except `unpriced`, `cache_hit`, `failure` and `late`, which are of the distinct events. From 2,000
    events on, the runaway tenant passes 50 USD at the rates of the example configuration; up to some
    15,000 events a tenant, nobody else does.

    Raises:
        ValueError: fewer than 100 events or 10 tenants, or fractions that leave no room for events.
    """

    events: int
    seed: int
    day: date
    tenants: int = 300
    runaway_fraction: float = 0.03
    duplicate_fraction: float = 0.03
    conflict_fraction: float = 0.0001
    malformed_fraction: float = 0.0005
    future_events: int = 1
    unpriced_fraction: float = 0.004
    cache_hit_fraction: float = 0.06
    failure_fraction: float = 0.02
    late_fraction: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a shape that cannot be generated."""
        if self.events < 100 or self.tenants < 10:
            raise ValueError("A day of traffic needs at least 100 events and 10 tenants.")
        trouble = (self.duplicate_fraction, self.conflict_fraction, self.malformed_fraction)
        marks = (self.unpriced_fraction, self.cache_hit_fraction, self.failure_fraction, self.late_fraction)
        if not all(0 <= fraction <= 1 for fraction in (*trouble, *marks, self.runaway_fraction)):
            raise ValueError("Every fraction of a traffic shape lies between 0 and 1.")
        if sum(trouble) > 0.5 or not 0 <= self.future_events <= self.events // 10:
            raise ValueError("Copies, conflicts and broken lines may make at most half of the traffic.")

    @property
    def duplicates(self) -> int:
        """Lines that repeat an event."""
        return round(self.events * self.duplicate_fraction)

    @property
    def conflicts(self) -> int:
        """Lines that reuse an event's key for something else; at least one, unless the fraction is 0."""
        return math.ceil(self.events * self.conflict_fraction)

    @property
    def malformed(self) -> int:
        """Lines that are no events; at least one, unless the fraction is 0."""
        return math.ceil(self.events * self.malformed_fraction)

    @property
    def originals(self) -> int:
        """Distinct events that the contract accepts."""
        return self.events - self.duplicates - self.conflicts - self.malformed - self.future_events

    @property
    def runaway_events(self) -> int:
        """Distinct events of the runaway tenant: the first ones by number, a few of them innocent."""
        return max(round(self.originals * self.runaway_fraction), min(self.originals // 10, 300))


# ---------------------------------------------------------------------------------------------
# Draws


class Draw(IntEnum):
    """What a random word decides. The numbers are part of the output: add, never renumber."""

    KEY = 1
    TENANT = 2
    TIME = 3
    LOOP = 4
    ARRIVAL = 5
    LATE = 6
    FEATURE = 7
    MODEL = 8
    INPUT = 9
    OUTPUT = 10
    CACHE_READ = 11
    CACHE_WRITE = 12
    REASONING = 13
    FATE = 14
    LATENCY = 15
    RETRY = 16
    TARGET = 17
    DELAY = 18
    PROFILE = 19
    DETAIL = 20
    BREAKAGE = 21


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def _mix(word: int) -> int:
    """The finaliser of splitmix64, for one Python integer."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def words(seed: int, draw: Draw, numbers: Int64s) -> Words:
    """64 random bits for each number. Two numbers never share their bits within one kind of draw."""
    key = _mix((_mix(seed & _MASK) + int(draw) * _GOLDEN) & _MASK)
    word: Words = numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = word ^ (word >> np.uint64(31))
    return mixed


def below(word: Words, bound: int | Int64s) -> Int64s:
    """Uniform integers in `[0, bound)`, from the upper half of each word; bounds are at most 2**31."""
    upper: Int64s = (word >> np.uint64(32)).astype(np.int64)
    return upper * bound >> 32


def happens(word: Words, fraction: float) -> Bools:
    """True for that fraction of the words."""
    return np.less(below(word, 2**31), int(fraction * 2**31))


def pick(word: Words, weights: Sequence[int] | Int64s) -> Int64s:
    """Indexes into `weights`, in proportion to them."""
    cumulative = np.cumsum(np.asarray(weights, np.int64))
    return np.searchsorted(cumulative, below(word, int(cumulative[-1])), side="right").astype(np.int64)


# ---------------------------------------------------------------------------------------------
# Lengths

_CELL_BITS = 10


def _table(*points: tuple[int, int]) -> Int64s:
    """A quantile function from points (share of 10,000, value), resampled to 1,025 even ones."""
    shares, values = zip(*points, strict=True)
    cells = 2**_CELL_BITS
    table = []
    for cell in range(cells + 1):
        right = next(n for n, share in enumerate(shares) if share * cells >= cell * 10_000)
        left = max(right - 1, 0)
        width = max(shares[right] - shares[left], 1) * cells
        into = cell * 10_000 - shares[left] * cells
        table.append(values[left] + (values[right] - values[left]) * into // width)
    return np.array(table, np.int64)


def quantile(tables: Int64s, row: int | Int64s, word: Words) -> Int64s:
    """Values distributed like that row of `tables`, between its points linearly."""
    upper = (word >> np.uint64(32)).astype(np.int64)
    cell, into = upper >> (32 - _CELL_BITS), upper & (2 ** (32 - _CELL_BITS) - 1)
    low: Int64s = tables[row, cell]
    high: Int64s = tables[row, cell + 1]
    step: Int64s = (high - low) * into >> (32 - _CELL_BITS)
    return low + step


def mean(table: Int64s) -> float:
    """The mean of what `quantile` draws."""
    doubled = int(table[:-1].sum() + table[1:].sum())
    return doubled / (2 * (len(table) - 1))


# In both traces the lengths of prompt and answer hardly hang together (correlation of their
# logarithms below 0.06), so they are drawn apart.
CODE_INPUT = _table(
    (0, 3), (500, 75), (1000, 147), (2000, 386), (3000, 770), (4000, 1075), (5000, 1469), (6000, 1909),
    (7000, 2433), (8000, 3192), (9000, 5188), (9500, 7303), (9800, 7436), (10_000, 7437),
)  # fmt: skip
CODE_OUTPUT = _table(
    (0, 6), (1000, 7), (2000, 8), (3000, 9), (4000, 11), (5000, 13), (6000, 16), (7000, 20),
    (8000, 29), (9000, 55), (9500, 90), (9800, 171), (9900, 251), (9950, 359), (9990, 825), (10_000, 1899),
)  # fmt: skip
CHAT_INPUT = _table(
    (0, 891), (500, 901), (1000, 964), (2000, 1662), (3000, 3263), (4000, 4993), (5000, 6909), (6000, 9570),
    (7000, 13_196), (8000, 17_869), (9000, 27_367), (9500, 39_550), (9800, 66_449), (9900, 85_400),
    (9950, 100_810), (9990, 121_301), (10_000, 126_195),
)  # fmt: skip
CHAT_OUTPUT = _table(
    (0, 1), (500, 10), (1000, 24), (2000, 100), (3000, 213), (4000, 291), (5000, 350), (6000, 399),
    (7000, 447), (8000, 504), (9000, 597), (9500, 698), (9800, 892), (9900, 1119), (9950, 1568),
    (10_000, 2000),
)  # fmt: skip
PREFIX_HIT_PER_MILLE = _table(
    (0, 0), (500, 18), (1000, 28), (2000, 52), (3000, 90), (4000, 146), (5000, 363), (6000, 537),
    (7000, 573), (8000, 836), (9000, 948), (9500, 976), (9800, 990), (10_000, 1000),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------
# What is asked for


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of the product, and how long its prompts and answers are."""

    name: str
    input: Int64s
    output: Int64s
    prefix_cached: bool


FEATURES = (
    Feature("chat", CHAT_INPUT, CHAT_OUTPUT, prefix_cached=True),
    Feature("summarise", CODE_INPUT, CHAT_OUTPUT, prefix_cached=False),
    Feature("search", CODE_INPUT, CODE_OUTPUT, prefix_cached=False),
    Feature("agent", CHAT_INPUT, CODE_OUTPUT, prefix_cached=True),
    Feature("extract", CODE_INPUT, CODE_OUTPUT, prefix_cached=False),
)
AGENT = 3

FEATURE_MIXES = ((70, 15, 10, 5, 0), (0, 35, 15, 0, 50), (10, 0, 80, 0, 10), (25, 0, 15, 60, 0))
"""Weights of `FEATURES`: an assistant, a document product, a search product, an agent product."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as events name it. Rates are ten-millionths of a USD per token, `price` in per cent of cost.

    They serve to keep tenants below their cap, and as what a gateway says the call cost; the job
    knows its own rates. Unknown ones are 0.
    """

    name: str
    provider: str
    version: str
    input_rate: int
    output_rate: int
    price: int


MODELS = (
    Model("gpt-4o", "openai", "2024-11-20", 50, 150, 100),
    Model("claude-3-5-sonnet", "anthropic", "20241022", 30, 150, 100),
    Model("fallback-llama-3", "self-hosted", "70b-instruct", 5, 20, 80),
    Model("gpt-4o-mini-preview", "openai", "", 0, 0, 0),
)
GPT, CLAUDE, LLAMA, PREVIEW = range(4)

SECOND_MODEL_PER_CENT = 3
"""Of a tenant's events, those that go to its second model."""


def mean_price_usd(model: int, mix: int) -> float:
    """Expected price of one event at natural length."""
    total = 0.0
    for weight, feature in zip(FEATURE_MIXES[mix], FEATURES, strict=True):
        tenth_micros = mean(feature.input) * MODELS[model].input_rate
        tenth_micros += mean(feature.output) * MODELS[model].output_rate
        total += weight / 100 * tenth_micros
    return total / 10_000_000 * MODELS[model].price / 100


# ---------------------------------------------------------------------------------------------
# By whom and when


@dataclass(frozen=True, slots=True)
class Tenants:
    """Columns by tenant; the first is the runaway, which has no weight: its events are counted apart.

    `length_per_mille` scales the natural lengths of a tenant's prompts and answers: whoever asks often
    asks briefly, or could not pay for it. `style` chooses how its SDK writes a timestamp.
    """

    names: tuple[str, ...]
    weights: Int64s
    mixes: Int64s
    models: Int64s
    second_models: Int64s
    length_per_mille: Int64s
    shift_hours: Int64s
    details: Words


_NEAR_CAP_USD = {4: 0.85 * DAILY_CAP_USD, 11: 0.88 * DAILY_CAP_USD}
"""By rank: the two tenants who come close to the cap."""

_SPEND_KNEE_USD, _SPEND_TOP_USD = 15.0, 36.0


def _target_usd(natural_usd: float, rank: int) -> float:
    """What a tenant is to spend: its natural spend as long as that is modest, then ever less of it."""
    if rank in _NEAR_CAP_USD:
        return _NEAR_CAP_USD[rank]
    if natural_usd <= _SPEND_KNEE_USD:
        return natural_usd
    return _SPEND_TOP_USD - (_SPEND_TOP_USD - _SPEND_KNEE_USD) * _SPEND_KNEE_USD / natural_usd


def tenants_of(shape: TrafficShape) -> Tenants:
    """The tenants of a shape, busiest first after the runaway."""
    ordinary = shape.tenants - 1
    # Computed in floating point, and the same on every machine nevertheless: four digits are kept.
    normal = NormalDist(sigma=2.0)
    logs = [normal.inv_cdf(1 - (rank + 0.5) / ordinary) for rank in range(ordinary)]
    weights = [max(1, round(1000 * math.exp(value))) for value in logs]
    details = words(shape.seed, Draw.PROFILE, np.arange(shape.tenants, dtype=np.int64))
    mixes = (details % np.uint64(len(FEATURE_MIXES))).astype(np.int64)
    mixes[0] = 3
    models, seconds, lengths = [GPT], [LLAMA], [50]
    billable = (1 - shape.cache_hit_fraction) * (1 - shape.failure_fraction) * (1 - shape.unpriced_fraction)
    events = (shape.originals - shape.runaway_events) * billable
    for rank, weight in enumerate(weights):
        chosen = int(details[rank + 1] >> np.uint64(8)) % 100
        # Volume lives on the small model.
        small = rank < ordinary // 10 or chosen >= 80
        main = LLAMA if small else GPT if chosen < 45 else CLAUDE
        second = GPT if main == LLAMA else LLAMA
        mix = int(mixes[rank + 1])
        stray = SECOND_MODEL_PER_CENT / 100
        price = (1 - stray) * mean_price_usd(main, mix) + stray * mean_price_usd(second, mix)
        natural = price * events * weight / sum(weights)
        scale = round(1000 * _target_usd(natural, rank) / natural) if natural > 0 else 1000
        models.append(main)
        seconds.append(second)
        lengths.append(min(max(scale, 5), 4000))
    order = np.argsort(details[1:], kind="stable")
    width = max(3, len(str(ordinary)))
    names = [""] * ordinary
    for number, rank in enumerate(order.tolist(), start=1):
        names[rank] = f"tenant-{number:0{width}d}"
    shifts = np.array([0, 6, 14], np.int64)[((details >> np.uint64(24)) % np.uint64(3)).astype(np.int64)]
    return Tenants(
        names=(RUNAWAY_TENANT, *names),
        weights=np.array([0, *weights], np.int64),
        mixes=mixes,
        models=np.array(models, np.int64),
        second_models=np.array(seconds, np.int64),
        length_per_mille=np.array(lengths, np.int64),
        shift_hours=shifts,
        details=details >> np.uint64(32),
    )


_HOUR_PER_MILLE = (
    *(839, 714, 733, 676, 714, 660, 684, 855, 1015, 1054, 1125, 1093),
    *(1060, 1073, 1060, 1047, 1091, 1079, 1007, 1229, 1456, 1402, 1270, 1063),
)


def minute_weights() -> Int64s:
    """How busy each of the day's 1,440 minutes is, in proportion; hours run into each other linearly."""
    hours = [*_HOUR_PER_MILLE, _HOUR_PER_MILLE[0]]
    minutes = range(24 * 60)
    return np.array(
        [hours[m // 60] * (60 - m % 60) + hours[m // 60 + 1] * (m % 60) for m in minutes], np.int64
    )
