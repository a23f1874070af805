"""The catalogue's prices as a card: the same amounts, or a sentence on what is left out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from dataflows.catalogue import Imported, Wanted, import_provider
from metering.event import InvalidEvent
from pricing.card_text import card_text
from pricing.money import quantize
from pricing.rate_card import RateCard, compile_card
from pricing.settings import load_settings
from tests.pricing.card_events import priced

data = pytest.importorskip("genai_prices.data", reason="the catalogue wants Python 3.11")
types: Any = pytest.importorskip("genai_prices.types")
FREE_OUTPUT = Wanted(output_rate=Decimal(0))
MTOK = {"input_mtok": Decimal(2), "output_mtok": Decimal(8)}
TWICE = {"input_mtok": Decimal(4), "output_mtok": Decimal(8)}
VIENNA = timezone(timedelta(hours=1))
NOVEMBER = "2026-11-01T12:00:00+00:00"


def loaded(found: Imported) -> RateCard:
    settings = load_settings("pricing: {cards: [x]}", [("x", card_text(found.rules))])
    assert settings.pricing.rules == found.rules
    return compile_card(settings.pricing.rules)


def provider(*models: Any, **more: Any) -> Any:
    return types.Provider(id="p", name="P", api_pattern="", models=list(models), **more)


def model(name: str, match: Any = None, variants: Any = None, **prices: Any) -> Any:
    clause = match if match is not None else types.ClauseEquals(name)
    known = prices.pop("dated", None) or types.ModelPrice(**(prices or MTOK))
    return types.ModelInfo(name, clause, prices=known, price_variants=variants)


def starts(*texts: str) -> Any:
    clauses = [types.ClauseStartsWith(text) for text in texts]
    return clauses[0] if len(clauses) == 1 else types.ClauseOr(clauses)


def batch(*, since: date | None = None, **prices: Any) -> Any:
    constraint = None if since is None else types.StartDateConstraint(since)
    return types.PriceVariant({"processing": "batch"}, types.ModelPrice(**prices), constraint)


def cost(found: Imported, name: str, **event: Any) -> Any:
    """What an event costs, or None if it is unpriced."""
    at = datetime.fromisoformat(event.pop("at", NOVEMBER))
    plain = {"provider": "p", "model": name, "timestamp_ms": int(at.timestamp() * 1000)}
    usage = {"input_tokens": 1_000_000} if "input_tokens" not in event else {}
    (money,) = priced(loaded(found), {**plain, **usage, **event})
    return None if isinstance(money, InvalidEvent) else money[0]


TIERED = types.TieredPrices(base=Decimal(2), tiers=[types.Tier(start=199_999, price=Decimal(4))])
STEEP = types.TieredPrices(
    base=Decimal(2),
    tiers=[types.Tier(start=199_999, price=Decimal(4)), types.Tier(start=200_000, price=Decimal(9))],
)
DATED = [
    types.ConditionalPrice(prices=types.ModelPrice(**MTOK)),
    types.ConditionalPrice(
        types.StartDateConstraint(date(2026, 11, 1)),
        prices=types.ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(8)),
    ),
    types.ConditionalPrice(
        types.TimeOfDateConstraint(time(22), time(2)),
        prices=types.ModelPrice(input_mtok=Decimal("0.5"), output_mtok=Decimal(8)),
    ),
]
ABROAD = types.TimeOfDateConstraint(time(3, tzinfo=VIENNA), time(8, tzinfo=VIENNA))
BY_EARLY = [DATED[0], types.ConditionalPrice(ABROAD, prices=types.ModelPrice(**TWICE))]
CHEAP_BATCH = batch(since=date(2026, 10, 14), input_mtok=Decimal(1))
OFFICE = types.PriceVariant({"route": "eu"}, types.ModelPrice(input_mtok=Decimal(3)))


@pytest.mark.parametrize(
    ("one", "event", "expected"),
    [
        pytest.param(model("m"), {}, "2", id="a rate for a million"),
        pytest.param(model("m", input_mtok=TIERED, output_mtok=Decimal(8)), {"input_tokens": 199_999},
                     "0.399998", id="a tier begins above its start"),
        pytest.param(model("m", input_mtok=TIERED, output_mtok=Decimal(8)), {"input_tokens": 200_000},
                     "0.8", id="and holds for the whole request"),
        pytest.param(model("m", input_mtok=STEEP, output_mtok=Decimal(8)), {"input_tokens": 200_000},
                     "0.8", id="the last tier that begins below"),
        pytest.param(model("m", **MTOK, cache_write_mtok=Decimal(3)),
                     {"cache_write_tokens": 1_000_000, "cache_write_1h_tokens": 1_000_000}, "3",
                     id="writes for an hour cost what writes do"),
        pytest.param(model("m", dated=DATED), {"at": "2026-10-31T12:00:00+00:00"}, "2", id="before a date"),
        pytest.param(model("m", dated=DATED), {"at": "2026-11-01T12:00:00+00:00"}, "1", id="since a date"),
        pytest.param(model("m", dated=DATED), {"at": "2026-11-01T22:00:00+00:00"}, "0.5", id="by night"),
        pytest.param(model("m", dated=DATED), {"at": "2026-10-31T01:59:59+00:00"}, "0.5", id="over midnight"),
        pytest.param(model("m", dated=DATED), {"at": "2026-11-01T02:00:00+00:00"}, "1", id="until morning"),
        pytest.param(model("m", dated=BY_EARLY), {"at": "2026-11-01T02:00:00+00:00"}, "4", id="hours abroad"),
        pytest.param(model("m", dated=BY_EARLY), {"at": "2026-11-01T07:00:00+00:00"}, "2", id="and then"),
        pytest.param(model("m", variants=[CHEAP_BATCH]), {"service_tier": "batch"}, "1", id="a batch"),
        pytest.param(model("m", variants=[CHEAP_BATCH]),
                     {"service_tier": "batch", "at": "2026-10-13T23:59:59+00:00"}, None,
                     id="a batch before its price is known is unpriced, not standard"),
        pytest.param(model("m", variants=[CHEAP_BATCH]), {"service_tier": "flex"}, None,
                     id="so is a tier that nobody knows"),
        pytest.param(model("m", **MTOK, web_searches_kcount=Decimal(10)),
                     {"attributes": {"unit.web_searches": "3"}}, "2.03", id="units"),
        pytest.param(model("m", **MTOK, requests_kcount=Decimal(5)), {}, "2.005", id="a fee"),
        pytest.param(model("m", **MTOK, input_audio_mtok=Decimal(40)),
                     {"attributes": {"unit.input_audio_tokens": "500000"}}, "21", id="tokens of audio"),
        pytest.param(model("m", input_mtok=Decimal(2)), {}, "2", id="output is free if we say so"),
    ],
)  # fmt: skip
def test_an_event_costs_what_the_catalogue_says(
    one: Any, event: Mapping[str, Any], expected: str | None
) -> None:
    found = import_provider(provider(one), FREE_OUTPUT)
    assert cost(found, "m", **event) == (None if expected is None else Decimal(expected))
    assert found.untold == ()


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(
            model("m", variants=[CHEAP_BATCH]), 2, id="a date of the batch price is none of the other"
        ),
        pytest.param(model("m", dated=DATED), 4, id="hours over midnight, before a date and since"),
        pytest.param(model("m", starts("m", "n")), 3, id="prefixes, and its own name"),
    ],
)
def test_there_are_no_more_entries_than_need_be(one: Any, expected: int) -> None:
    assert len(import_provider(provider(one), Wanted()).rules) == expected


ENDS = [
    DATED[0],
    types.ConditionalPrice(types.StartDateConstraint(date(2026, 6, 1)), prices=types.ModelPrice()),
]
COMES_BACK = [
    *ENDS,
    types.ConditionalPrice(types.StartDateConstraint(date(2026, 11, 1)), prices=types.ModelPrice(**TWICE)),
]


@pytest.mark.parametrize(
    ("at", "expected"),
    [("2026-05-31T23:59:59+00:00", "2"), ("2026-06-01T00:00:00+00:00", None), (NOVEMBER, "4")],
)
def test_a_time_without_a_price_has_none(at: str, expected: str | None) -> None:
    found = import_provider(provider(model("m", dated=COMES_BACK)), Wanted())
    assert cost(found, "m", at=at) == (None if expected is None else Decimal(expected))


LOOKS_AHEAD = types.ClauseAnd([types.ClauseStartsWith("m"), types.ClauseRegex("^(?!.*-tts)")])
TOO_FREE = "m: names that fit '^m(-?[a-z])*$', because a pattern must repeat no group"
NOTHING = "nothing, because"
TOO_LONG = "USD for 1,000,000: for one, that has more than 18 decimal places"


@pytest.mark.parametrize(
    ("one", "entries", "told"),
    [
        (model("m", dated=types.ModelPrice()), 0, [f"m: {NOTHING} it has no price"]),
        (model("m", input_mtok=Decimal(1)), 0,
         [f"m: {NOTHING} it has no price for output tokens, which an entry needs"]),
        (model("m", audio_hours=Decimal(1)), 0,
         [f"m: {NOTHING} it has audio_hours and no price for input tokens, which an entry needs"]),
        (model("m", **MTOK, cache_write_mtok=Decimal("0.0833333333333333")), 0,
         [f"m: {NOTHING} the price cache_write_mtok is 0.0833333333333333 {TOO_LONG}"]),
        (model("m", **MTOK, audio_hours=Decimal(1)), 1,
         ["m: the price audio_hours is 1 USD for 3,600: for one, that has more than 18 decimal places"]),
        (model("m", **MTOK, output_citation_mtok=Decimal(2)), 1,
         ["m: the price output_citation_mtok is for a class of tokens that a card does not know"]),
        (model("m", **MTOK, web_searches_kcount=TIERED), 1,
         ["m: the price web_searches_kcount depends on the context"]),
        (model("m", variants=[OFFICE]), 1, ["m: the price for route eu"]),
        (model("m", match=types.ClauseRegex("^m-(a|b)$")), 0, ["m: names that fit regex ^m-(a|b)$"]),
        (model("m", match=types.ClauseRegex("^m(-?[a-z])*$")), 1, [TOO_FREE]),
    ],
)  # fmt: skip
def test_what_a_card_cannot_say_is_told(one: Any, entries: int, told: list[str]) -> None:
    found = import_provider(provider(one), Wanted())
    assert len(found.rules) == entries
    assert [one[: len(begins)] for one, begins in zip(found.untold, told, strict=True)] == told


FIRST, SECOND, NONE = Decimal(2), Decimal(4), None


@pytest.mark.parametrize(
    ("first", "second", "name", "event", "expected"),
    [
        pytest.param(model("m-x"), model("m", starts("m"), **TWICE), "m-x", {}, FIRST, id="an exact name"),
        pytest.param(model("m-x"), model("m", starts("m"), **TWICE), "m-xx", {}, SECOND, id="and no other"),
        pytest.param(model("m-x", starts("m-x")), model("m", starts("m"), **TWICE), "m-xx", {}, FIRST,
                     id="the longer prefix"),
        pytest.param(model("m", starts("m")), model("m-x", **TWICE), "m-x", {}, FIRST,
                     id="the first, though the second is more specific"),
        pytest.param(model("m", starts("m")), model("m-x", starts("m-x"), **TWICE), "m-xx", {}, FIRST,
                     id="the first, though the second has the longer prefix"),
        pytest.param(model("m", types.ClauseContains("mini")), model("x", starts("x-mini"), **TWICE),
                     "x-mini", {}, FIRST, id="a clause before a prefix"),
        pytest.param(model("m", types.ClauseContains("x-mini")), model("x", starts("x-mi"), **TWICE),
                     "x-mini", {}, FIRST, id="a clause before a shorter prefix"),
        pytest.param(model("m-x", dated=ENDS), model("m", starts("m"), **TWICE), "m-x", {}, NONE,
                     id="a name without a price any more is not another model's"),
        pytest.param(model("m", types.ClauseContains("mini")), model("x", starts("x"), **TWICE), "x-9", {},
                     SECOND, id="a prefix that has nothing to do with it"),
        pytest.param(model("m", dated=types.ModelPrice()), model("x", starts("m-", "m"), **TWICE), "m", {},
                     NONE, id="a name without a price is not another model's"),
        pytest.param(model("m-x"), model("m", starts("m"), [batch(input_mtok=Decimal(1))]), "m-x",
                     {"service_tier": "batch"}, NONE, id="nor in a tier that it does not have"),
        pytest.param(model("m-x", variants=[CHEAP_BATCH]),
                     model("m", starts("m"), [batch(input_mtok=Decimal(9))]), "m-x",
                     {"service_tier": "batch", "at": "2026-01-01T00:00:00+00:00"}, NONE,
                     id="nor in a tier that it does not have yet"),
        pytest.param(model("m", LOOKS_AHEAD), model("y"), "m-pro", {}, FIRST, id="a clause that looks ahead"),
        pytest.param(model("m", LOOKS_AHEAD), model("y"), "m-pro-tts", {}, NONE, id="and sees something"),
        pytest.param(model("M-X"), model("y"), "M-X", {}, FIRST, id="capitals"),
        pytest.param(model("M-X"), model("y"), "m-x", {}, FIRST, id="small letters"),
        pytest.param(model("M", types.ClauseContains("m-x")), model("y"), "AM-XB", {}, FIRST,
                     id="a clause without regard to case"),
    ],
)  # fmt: skip
def test_the_model_that_prices_a_name_is_the_catalogues(
    first: Any, second: Any, name: str, event: Mapping[str, Any], expected: Decimal | None
) -> None:
    assert cost(import_provider(provider(first, second), Wanted()), name, **event) == expected


def test_an_import_of_one_model_prices_no_name_of_another() -> None:
    models = provider(model("m-x", **TWICE), model("m", starts("m")))
    found = import_provider(models, Wanted(("m",)))
    assert [cost(found, name) for name in ("m", "m-x", "m-y")] == [FIRST, NONE, NONE]
    assert found.untold == (
        "m: names that begin with 'm' (they include the name 'm-x', which has no such price)",
    )


def test_a_prefix_that_prevails_over_an_earlier_clause_is_told() -> None:
    found = import_provider(
        provider(model("m", types.ClauseContains("mini")), model("x", starts("x"), **TWICE)), Wanted()
    )
    assert (cost(found, "x-mini"), cost(found, "a-mini")) == (SECOND, FIRST)
    fit = "names that fit a clause such as 'contains mini' (1 in all)"
    begin = "begin as those of a later model do, such as 'x'"
    assert found.untold == (
        f"p: what the catalogue says of {fit} and {begin}: they have the later one's price",
    )


def test_free_output_is_free_only_where_nothing_else_is_put_out() -> None:
    speech = model("m", input_mtok=Decimal(1), output_audio_mtok=Decimal(9))
    assert import_provider(provider(speech), FREE_OUTPUT).rules == ()


def test_models_that_another_provider_lends_are_told() -> None:
    lends = provider(model("m"), fallback_model_providers=["openai"])
    assert import_provider(lends, Wanted()).untold == (
        "p: models that the catalogue prices as those of openai",
    )


PROVIDERS = {one.id: one for one in data.providers}


def known_names(clause: Any) -> Iterator[str]:
    """Some names that a clause of the catalogue recognises."""
    if hasattr(clause, "or_"):
        for part in clause.or_:
            yield from known_names(part)
    elif hasattr(clause, "equals"):
        yield clause.equals
    elif hasattr(clause, "starts_with"):
        yield from (clause.starts_with, f"{clause.starts_with}-2026-07-07")
    elif hasattr(clause, "contains"):
        yield f"x.{clause.contains}-y"


def drawn_usage(random: random.Random) -> dict[str, int]:
    tokens_in = random.choice([0, 10, 5_000, 199_999, 200_000, 200_001, 272_000, 272_001, 900_000])
    tokens_out, read = random.randint(0, 5_000), random.randint(0, tokens_in) * random.randint(0, 1)
    write = random.randint(0, tokens_in - read) * random.randint(0, 1)
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "cache_write_1h_tokens": random.randint(0, write),
        "reasoning_tokens": random.randint(0, tokens_out) * random.randint(0, 1),
    }


def their_cost(name: str, one: Any, at: datetime, tier: Any, usage: Mapping[str, int]) -> Decimal:
    theirs = dict(usage)
    theirs["output_reasoning_tokens"] = theirs.pop("reasoning_tokens")
    counted = types.Usage(**theirs)
    answer = one.calc_price(
        counted, PROVIDERS[name], genai_request_timestamp=at, price_context=tier.when if tier else None
    )
    return quantize(answer.total_price)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_every_provider_makes_a_card_that_loads_and_costs_what_the_catalogue_calculates(name: str) -> None:
    """To the last digit; an event without a cost is of a model, a tier or a time that is left out."""
    draw = random.Random(name)
    catalogue = PROVIDERS[name]
    found = import_provider(catalogue, FREE_OUTPUT)
    left_out = {told.partition(": nothing")[0] for told in found.untold if ": nothing" in told}
    asked = []
    for alternative in [text for one in catalogue.models for text in (one.id, *known_names(one.match))]:
        one = catalogue.find_model(alternative)
        if one is None or (len(catalogue.models) > 200 and draw.random() > 0.2):
            continue
        tiers = [v for v in one.price_variants or () if set(v.when) & {"processing", "service_tier", "speed"}]
        tier = draw.choice([None, *tiers])
        at = datetime(
            2026, draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23), tzinfo=timezone.utc
        )
        asked.append((alternative, one, at, tier, drawn_usage(draw)))
    events = [
        {
            "provider": name,
            "model": alternative,
            "timestamp_ms": int(at.timestamp() * 1000),
            "service_tier": next(iter(tier.when.values())) if tier else "",
            **usage,
        }
        for alternative, _, at, tier, usage in asked
    ]
    kinds = Counter[str]()
    for (_, one, at, tier, usage), ours in zip(asked, priced(loaded(found), *events), strict=True):
        if isinstance(ours, InvalidEvent):
            early = tier is not None and tier.constraint is not None and not tier.constraint.active(at)
            assert early or one.id in left_out, (one.id, tier, ours)
            kinds["unpriced"] += 1
        else:
            assert ours[0] == their_cost(name, one, at, tier, usage), (one.id, at, tier, usage)
            kinds["equal"] += 1
    assert kinds["equal"] > 0
