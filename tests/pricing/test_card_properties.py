"""Cards and events of every kind against plain decimals, to the twelfth place."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from metering.event import InvalidEvent
from pricing.card_values import MODALITIES, WHOLE_OF, Clause, ContextTier, Contract, Rates, Rule, TimeOfDay
from pricing.rate_card import compile_card
from tests.pricing.card_events import NOON_MS, PLAIN, TOKENS, Money, priced
from tests.pricing.plain_card import Event, RefusedError, plainly

Card = tuple[list[Rule], list[Contract]]

HOUR_MS = 3_600_000
TOKENS_MAX = 2**40

decimals_9 = st.integers(0, 10**6).map(lambda units: Decimal(f"{units}e-9"))
decimals_18 = st.integers(0, 10**21).map(lambda units: Decimal(f"{units}e-18"))
half_picos = st.integers(0, 9).map(lambda units: Decimal(f"{units * 5}e-13"))
some_rates = decimals_9 | half_picos | decimals_18
fees = st.sampled_from([Decimal(0), Decimal("0.0001"), Decimal("1e-12"), Decimal(1000)])
multipliers = st.sampled_from([Decimal(text) for text in ("0", "1", "1.2", "0.333333", "999.999999")])
fractions = st.sampled_from([Decimal(text) for text in ("0", "1", "0.15", "0.000001")])
names = st.sampled_from(["", "", "", "", "p", "q"])
tiers = st.sampled_from(["", "*", "*", "flex"])
# Most entries are for any time and place, so that most events have a rate.
instants = st.sampled_from([None, None, None]) | st.integers(-3, 3).map(
    lambda hours: NOON_MS + hours * HOUR_MS
)
models = ("a", "ab", "abc")
units = ("pages", "searches")
clauses = st.sampled_from(
    [
        Clause("contains", "b"),
        Clause("regex", "^a.$"),
        Clause("or", parts=(Clause("equals", "b"), Clause("ends_with", "c"))),
        Clause("and", parts=(Clause("starts_with", "a"), Clause("contains", "bc"))),
    ]
)
hours = st.sampled_from([None, None, None]) | st.builds(
    TimeOfDay,
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    st.sampled_from(["UTC", "Asia/Kathmandu"]),
).filter(lambda one: one.from_minute != one.until_minute)


def rates() -> st.SearchStrategy[dict[str, Any]]:
    """Keys of `Rates`."""
    own = st.none() | some_rates
    return st.fixed_dictionaries(
        {
            "input_rate": some_rates,
            "output_rate": some_rates,
            **dict.fromkeys(
                ("cache_read_rate", "cache_write_rate", "cache_write_1h_rate", "reasoning_rate"), own
            ),
            "modality_rates": st.dictionaries(st.sampled_from(list(WHOLE_OF)), some_rates),
            "unit_rates": st.dictionaries(st.sampled_from(units), some_rates),
            "request_fee": fees,
        }
    )


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    """Keys that say what an entry is for."""
    by = draw(st.sampled_from(["model", "model", "model_prefix", "match"]))
    clause = {"match": draw(clauses)} if by == "match" else {by: draw(st.sampled_from(models))}
    begin, end = draw(instants), draw(instants)
    assume(begin is None or end is None or begin < end)
    return {
        **clause,
        "provider": draw(names),
        "model_version": draw(names),
        "region": draw(names),
        "service_tier": draw(tiers),
        "effective_from_ms": begin,
        "effective_until_ms": end,
    }


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    own_price = draw(st.booleans())
    price = st.builds(lambda keys: Rates(**keys), rates()) if own_price else st.none()
    starts = sorted(draw(st.sets(st.sampled_from([1, 10, 200_001]), max_size=2)))
    return Rule(
        **draw(scopes()),
        **draw(rates()),
        time_of_day=draw(hours),
        context_tiers=tuple(
            ContextTier(**draw(rates()), tokens_min=start, price=draw(price)) for start in starts
        ),
        minimum_charge=draw(fees),
        price=draw(price),
        multiplier=draw(multipliers),
        credit_multiplier=draw(multipliers),
        credits=draw(
            st.just({})
            | st.fixed_dictionaries(
                {"input": multipliers, "output": multipliers},
                optional={"cache_read": multipliers, "reasoning": multipliers, "input_audio": multipliers},
            )
        ),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    kind = draw(st.sampled_from(["multiplier", "discount", "price"]))
    agreed = {
        "multiplier": multipliers,
        "discount": fractions,
        "price": rates().map(lambda keys: Rates(**keys)),
    }
    scope: dict[str, Any] = draw(scopes() | st.just({}))
    return Contract(tenant=draw(st.sampled_from(["acme", "other"])), **{**scope, kind: draw(agreed[kind])})


@st.composite
def tokens(draw: st.DrawFn) -> dict[str, int]:
    most = draw(st.sampled_from([3, 20, 400_000, TOKENS_MAX]))
    whole_in, whole_out = draw(st.integers(0, most)), draw(st.integers(0, most))
    read = draw(st.integers(0, whole_in))
    write = draw(st.integers(0, whole_in - read))
    write_1h, reasoning = draw(st.integers(0, write)), draw(st.integers(0, whole_out))
    return dict(zip(TOKENS, (whole_in, whole_out, read, write, write_1h, reasoning), strict=True))


@st.composite
def events(draw: st.DrawFn, rules: list[Rule]) -> Event:
    """An event: near to one of the rules in most things, so that many have a rate."""
    near = draw(st.sampled_from(rules))
    wish = {
        "model": near.model or near.model_prefix or "ab",
        "provider": near.provider,
        "model_version": near.model_version,
        "region": near.region,
        "service_tier": near.service_tier.replace("*", ""),
    }
    for name in wish:
        if draw(st.integers(0, 7)) == 0:
            others = {"model": models, "service_tier": ("", "default", "standard", "flex", "flx")}
            wish[name] = draw(st.sampled_from(others.get(name, ("", "p", "q"))))
    kinds = [
        *near.modality_rates,
        *near.unit_rates,
        *draw(st.sampled_from([(), (), (), (), (), ("input_audio",), units])),
    ]
    told = {
        f"unit.{name}_tokens" if name in WHOLE_OF else f"unit.{name}": draw(counts_told)
        for name in draw(st.lists(st.sampled_from(kinds), max_size=2) if kinds else st.just([]))
    }
    step_ms = draw(st.sampled_from([1, HOUR_MS, 24 * HOUR_MS]))
    return {
        **PLAIN,
        **wish,
        "tenant_id": draw(st.sampled_from(["acme", "other", "third"])),
        "timestamp_ms": NOON_MS + draw(st.integers(-4, 4)) * step_ms,
        **draw(tokens()),
        "attributes": {"app": "web", **told},
        "cache_hit": draw(st.booleans()),
        "billable": draw(st.booleans()),
    }


counts_told = st.integers(0, 99).map(lambda n: {98: "x", 99: "9" * 14}.get(n, str(n % 4)))


@st.composite
def days(draw: st.DrawFn) -> tuple[Card, list[Event]]:
    """A card, and events that it may rate."""
    apart = st.lists(rules(), min_size=1, max_size=3, unique_by=lambda rule: (rule.model, rule.model_prefix))
    entries = draw(apart | apart | st.lists(rules(), min_size=2, max_size=3))
    card = (entries, draw(st.lists(contracts(), max_size=2, unique_by=lambda one: one.tenant)))
    return card, draw(st.lists(events(card[0]), min_size=1, max_size=6))


linear = st.builds(
    Rule,
    model=st.just("a"),
    input_rate=decimals_9,
    output_rate=decimals_9,
    cache_read_rate=st.none() | decimals_9,
    reasoning_rate=st.none() | decimals_9,
    price=st.none() | st.builds(Rates, input_rate=decimals_9, output_rate=decimals_9),
    multiplier=st.sampled_from([Decimal(0), Decimal(1), Decimal("1.2")]),
)


def expected(card: Card, event: Event) -> Money | str:
    try:
        return plainly(*card, event)
    except RefusedError as refused:
        return str(refused.args[0])


def found(card: Card, *asked: Event) -> list[Money | str]:
    amounts = priced(compile_card(*card), *asked)
    return [one.reason.value if isinstance(one, InvalidEvent) else one for one in amounts]


@given(days())
def test_every_event_is_what_plain_decimals_say(day: tuple[Card, list[Event]]) -> None:
    card, asked = day
    assert found(card, *asked) == [expected(card, event) for event in asked]


@given(days(), st.randoms(use_true_random=False))
def test_neither_batches_nor_the_order_of_entries_change_an_amount(
    day: tuple[Card, list[Event]], random: Random
) -> None:
    card, asked = day
    whole = found(card, *asked)
    cut = random.randint(0, len(asked))
    assert [*found(card, *asked[:cut]), *found(card, *asked[cut:])] == whole
    shuffled = (random.sample(card[0], len(card[0])), random.sample(card[1], len(card[1])))
    assert found(shuffled, *asked) == whole
    assert compile_card(*shuffled).version == compile_card(*card).version


@given(linear, tokens(), st.integers(1, 1000))
def test_as_many_times_the_tokens_cost_as_many_times_as_much(
    rule: Rule, counts: dict[str, int], times: int
) -> None:
    """Of rates in whole picodollars, which nothing rounds; fees, minimums and context tiers stand aside."""
    plain = {**PLAIN, "model": "a"}
    scaled = {name: count * times for name, count in counts.items()}
    one, many = found(([rule], []), {**plain, **counts}, {**plain, **scaled})
    assert not isinstance(one, str)
    assert not isinstance(many, str)
    assert [amount * times for amount in one[:3]] == list(many[:3])


@given(tokens(), st.data())
def test_each_token_is_in_one_class(counts: dict[str, int], data: st.DataObject) -> None:
    """With every rate at one dollar, the cost is the number of tokens, whatever they are made of."""
    one = Decimal(1)
    rule = Rule(model="a", input_rate=one, output_rate=one, modality_rates=dict.fromkeys(WHOLE_OF, one))
    parts: dict[str, int] = {}
    rest = {
        "input": counts["input_tokens"] - counts["cache_read_tokens"] - counts["cache_write_tokens"],
        "cache_read": counts["cache_read_tokens"],
        "cache_write": counts["cache_write_tokens"] - counts["cache_write_1h_tokens"],
        "output": counts["output_tokens"] - counts["reasoning_tokens"],
    }
    for name, whole in WHOLE_OF.items():
        parts[name] = data.draw(st.integers(0, rest[whole]))
        rest[whole] -= parts[name]
    for modality in MODALITIES:  # gross: audio of the prompt includes what of it was cached
        parts[f"input_{modality}"] += parts[f"cache_read_{modality}"] + parts[f"cache_write_{modality}"]
    assume(all(count <= TOKENS_MAX for count in parts.values()))
    told = {f"unit.{name}_tokens": str(count) for name, count in parts.items()}
    (amounts,) = found(([rule], []), {**PLAIN, "model": "a", **counts, "attributes": told})
    total = counts["input_tokens"] + counts["output_tokens"]
    assert amounts == (Decimal(total), Decimal(total), Decimal(total), one)
