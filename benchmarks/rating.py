"""Events rated in a second on one core: the kernel on columns, and two libraries that price call by call.

The same events for all. Each library's own prices, taken from the data that it ships, are put in a card of
ours; every cost of the kernel is then compared with the library's before anything is timed. A library that is
not installed is left out, and said to be (the extra `bench` has both). Nothing is fetched at run time.
"""

from __future__ import annotations

import gc
import importlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.report import Section, Size, Target, spread
from pricing.card_assign import Assigned, assign
from pricing.card_values import ContextTier, Contract, Rates, Rule
from pricing.money import from_pico
from pricing.rate_card import RateCard, compile_card
from pricing.rating import rate, usage_of

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "o3-mini")
"""Models with one price a class, whatever the size of the prompt."""
TENANTS = tuple(f"tenant-{number:02d}" for number in range(80))
BATCH_ROWS = 50_000
EVENTS_MIN = 5_000_000
"""A second, on one core."""

_REPETITIONS = 7
_ROUNDING = Decimal("0.5e-12")
"""The kernel rounds a cost once, to 12 places."""
_FLOAT_ERROR = Decimal("1e-15")
"""Relative: a price read as a float, three products and two sums, each off by at most one part in 2**53."""

Column = npt.NDArray[np.int64]
Prices = Mapping[str, tuple[Decimal, Decimal, Decimal]]
"""By model: USD per input, cached input and output token."""


@dataclass(frozen=True, slots=True)
class Events:
    """Columns of a batch: the number of the model, and gross counts."""

    model: Column
    counts: Mapping[str, Column]

    def rows(self) -> list[tuple[str, int, int, int]]:
        """(model, input, cached, output) as plain Python values, which the libraries take."""
        columns = [
            self.counts[name].tolist() for name in ("input_tokens", "cache_read_tokens", "output_tokens")
        ]
        return list(zip((MODELS[number] for number in self.model.tolist()), *columns, strict=True))


@dataclass(frozen=True, slots=True)
class Peer:
    """A library: its prices, and its cost of one event in USD. `relative` bounds its own error."""

    name: str
    prices: Prices
    cost: Callable[[str, int, int, int], Any]
    relative: Decimal


def run(size: Size) -> Section:
    """Compare, then time.

    Raises:
        ValueError: a library and the kernel disagree by more than rounding.
    """
    batches, per_event = (4, 500) if size is Size.SMOKE else (20, 20_000)
    random = np.random.default_rng(7)
    events = [_draw(random, BATCH_ROWS) for _ in range(batches)]
    few = _draw(random, per_event)
    found, absent = _peers()
    for peer in found:
        _compare(peer, few)
    card = _card(found[0].prices if found else _PRICES)
    speed = {"kernel": _repeat(partial(_kernel, card, events), batches * BATCH_ROWS)}
    frames = [_frame(random, batch) for batch in events]
    for name, rich in _rich_cards().items():
        assigned = [assign(rich, frame) for frame in frames]
        work = partial(_assigned_kernel, rich, assigned, events)
        speed[f"kernel, {name}"] = _repeat(work, batches * BATCH_ROWS)
        speed[f"choosing rows, {name}"] = _repeat(partial(_choose, rich, frames), batches * BATCH_ROWS)
    rows = few.rows()
    for peer in found:
        speed[peer.name] = _repeat(partial(_one_by_one, peer.cost, rows), per_event)
    return _section(speed, absent)


_PRICES: Prices = {
    model: (Decimal("0.0000025"), Decimal("0.00000125"), Decimal("0.00001")) for model in MODELS
}
"""Where no library lends its own; what a rate is does not change the work."""


def _draw(random: np.random.Generator, size: int) -> Events:
    tokens_in = random.integers(1, 8_000, size)
    none = np.zeros(size, np.int64)
    counts = {
        "input_tokens": tokens_in,
        "output_tokens": random.integers(0, 2_000, size),
        "cache_read_tokens": np.where(random.random(size) < 0.3, tokens_in // 2, 0),
        "cache_write_tokens": none,
        "cache_write_1h_tokens": none,
        "reasoning_tokens": none,
    }
    return Events(random.integers(0, len(MODELS), size), counts)


def _card(prices: Prices) -> RateCard:
    """Their prices, and a multiplier: the kernel always works out cost, price and credits."""
    rules = [
        Rule(
            model=model,
            input_rate=prices[model][0],
            cache_read_rate=prices[model][1],
            output_rate=prices[model][2],
            multiplier=Decimal("1.2"),
        )
        for model in MODELS
    ]
    return compile_card(rules)


def _kernel(card: RateCard, batches: Sequence[Events]) -> None:
    for events in batches:
        no, yes = np.zeros(len(events.model), np.bool_), np.ones(len(events.model), np.bool_)
        rate(card, usage_of(events.model, events.counts, no, yes))


def _frame(random: np.random.Generator, events: Events) -> pl.DataFrame:
    """What `assign` asks of events: a quarter of them priority, half with one of forty contracts."""
    size = len(events.model)
    plain = pl.repeat("", size, eager=True)
    return pl.DataFrame(
        {
            "tenant_id": pl.Series(TENANTS).gather(random.integers(0, len(TENANTS), size)),
            "provider": plain,
            "model": pl.Series(MODELS).gather(events.model),
            "model_version": plain,
            "region": plain,
            "service_tier": pl.Series(["", "", "", "priority"]).gather(random.integers(0, 4, size)),
            "timestamp_ms": np.zeros(size, np.int64),
            "input_tokens": events.counts["input_tokens"],
        }
    )


def _rich_cards() -> Mapping[str, RateCard]:
    """One of which each entry has a context tier that half of the events reach, and one with contracts."""
    names = ("input_rate", "cache_read_rate", "output_rate")
    rates: dict[str, Any] = dict(zip(names, _PRICES[MODELS[0]], strict=True))
    long = ContextTier(tokens_min=4_000, **{name: 2 * rate for name, rate in rates.items()})
    tiers = [
        Rule(model=model, service_tier=tier, context_tiers=(long,), **rates)
        for model in MODELS
        for tier in ("", "priority")
    ]
    half = TENANTS[: len(TENANTS) // 2]
    contracts = [Contract(tenant=tenant, discount=Decimal("0.15")) for tenant in half[::2]]
    contracts += [Contract(tenant=tenant, price=Rates(**rates)) for tenant in half[1::2]]
    return {
        "tiers and contexts": compile_card(tiers),
        "contracts": compile_card([Rule(model=m, service_tier="*", **rates) for m in MODELS], contracts),
    }


def _choose(card: RateCard, frames: Sequence[pl.DataFrame]) -> None:
    for frame in frames:
        assign(card, frame)


def _assigned_kernel(card: RateCard, assigned: Sequence[Assigned], batches: Sequence[Events]) -> None:
    for found, events in zip(assigned, batches, strict=True):
        no, yes = np.zeros(len(found.row), np.bool_), np.ones(len(found.row), np.bool_)
        rate(card, usage_of(found.row, events.counts, no, yes, found.contract))


def _one_by_one(cost: Callable[[str, int, int, int], Any], rows: Sequence[tuple[str, int, int, int]]) -> None:
    for model, tokens_in, cached, tokens_out in rows:
        cost(model, tokens_in, cached, tokens_out)


def _compare(peer: Peer, events: Events) -> None:
    no, yes = np.zeros(len(events.model), np.bool_), np.ones(len(events.model), np.bool_)
    amounts = rate(_card(peer.prices), usage_of(events.model, events.counts, no, yes))
    for row, ours in zip(events.rows(), amounts.cost_pico.tolist(), strict=True):
        cost, theirs = from_pico(ours), Decimal(peer.cost(*row))
        if abs(cost - theirs) > _ROUNDING + peer.relative * cost:
            raise ValueError(f"{row} costs {cost}, and {theirs} according to {peer.name}")


def _peers() -> tuple[list[Peer], list[str]]:
    """Those that are installed, and the names of those that are not."""
    makers = {"genai-prices": ("genai_prices", _genai_prices), "litellm": ("litellm", _litellm)}
    # LiteLLM reads this when it is imported: its prices are then those that it ships, and nothing is fetched.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    found, absent = [], []
    for name, (module, make) in makers.items():
        if find_spec(module) is None:
            absent.append(name)
        else:
            found.append(make(importlib.import_module(module)))
    return found, absent


def _genai_prices(library: Any) -> Peer:
    def priced(model: str, tokens_in: int, cached: int, tokens_out: int) -> Any:
        usage = library.Usage(input_tokens=tokens_in, cache_read_tokens=cached, output_tokens=tokens_out)
        return library.calc_price(usage, model_ref=model, provider_id="openai")

    def cost(model: str, tokens_in: int, cached: int, tokens_out: int) -> Any:
        return priced(model, tokens_in, cached, tokens_out).total_price

    prices = {}
    for model in MODELS:
        card = priced(model, 1, 0, 1).model_price
        mtok = (card.input_mtok, card.cache_read_mtok, card.output_mtok)
        prices[model] = (mtok[0] / 10**6, mtok[1] / 10**6, mtok[2] / 10**6)
    return Peer("genai-prices", prices, cost, Decimal(0))


def _litellm(library: Any) -> Peer:
    def cost(model: str, tokens_in: int, cached: int, tokens_out: int) -> Any:
        return sum(
            library.cost_per_token(
                model=model,
                custom_llm_provider="openai",
                prompt_tokens=tokens_in,
                completion_tokens=tokens_out,
                cache_read_input_tokens=cached,
            )
        )

    prices = {}
    for model in MODELS:
        entry = library.model_cost[model]
        names = ("input_cost_per_token", "cache_read_input_token_cost", "output_cost_per_token")
        rates = [Decimal(repr(entry[name])) for name in names]
        prices[model] = (rates[0], rates[1], rates[2])
    return Peer("litellm", prices, cost, _FLOAT_ERROR)


def _repeat(work: Callable[[], None], events: int) -> list[float]:
    """Events per second of processor time, once for each repetition after one that warms up."""
    work()
    gc.collect()
    speeds = []
    for _ in range(_REPETITIONS):
        started = time.process_time()
        work()
        speeds.append(events / (time.process_time() - started))
    return speeds


def _section(speed: Mapping[str, list[float]], absent: Sequence[str]) -> Section:
    kernel = statistics.median(speed["kernel"])
    rows = tuple(
        (name, spread(values), f"{kernel / statistics.median(values):,.0f} ×")
        for name, values in speed.items()
    )
    how = (
        f"Processor time of one thread. The kernel takes batches of {BATCH_ROWS:,} events and gives cost, "
        "price and credits; choosing rows comes before it: for each event its rates, and its contract. A "
        "library is asked for the cost of one event at a time. On the same events, with its own prices, each "
        "library's costs agree with the kernel's within half of 10^-12 USD (the one rounding of the kernel) "
        "and, for litellm, which computes in floats, one part in 10^15 more."
    )
    left_out = (f"{name} is not installed and was left out." for name in absent)
    return Section(
        "rating",
        "Rating",
        ("what", "events/s", "kernel is faster by"),
        rows,
        targets=tuple(
            Target.at_least(f"{name}, events/s on one core", statistics.median(values), EVENTS_MIN)
            for name, values in speed.items()
            if name.startswith("kernel")
        ),
        notes=(how, *left_out),
        figures={name: list(values) for name, values in speed.items()},
    )
