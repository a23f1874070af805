"""Files of rate cards: their entries are added, and their problems come in one go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pricing.settings import card_names, load_settings
from tests.pricing.card_entries import PLAIN, READ, problems

CONFIG = "pricing: {cards: [cards, more.yaml]}"


def test_card_files_add_their_rules_and_contracts() -> None:
    assert card_names(CONFIG) == ("cards", "more.yaml")
    cards = [
        ("cards/a.yaml", f"rules: [{{{PLAIN}}}]\ncontracts: [{{tenant: acme, discount: 0.1}}]"),
        ("more.yaml", f"currency: USD\nrules: [{{{PLAIN}, region: eu}}]"),
    ]
    pricing = load_settings(CONFIG, cards).pricing
    assert pricing.rules == (READ, replace(READ, region="eu"))
    assert [contract.tenant for contract in pricing.contracts] == ["acme"]


def test_problems_of_all_files_come_in_one_go() -> None:
    cards = [
        ("a.yaml", f"currency: EUR\nrules: [{{{PLAIN}}}, {{model: n, input_rate: x, output_rate: 0}}]"),
        ("b.yaml", f"rules: [{{{PLAIN}}}]\ncards: [c.yaml]"),
        ("c.yaml", "[]"),
        ("d.yaml", "rules: ["),
    ]
    config = f"pricing: {{cards: [a.yaml], rules: [{{{PLAIN}, region: ''}}]}}"
    again = "applies to the same events as pricing.rules[0], and neither is more specific"
    found = problems(config, *cards)
    assert found[:-3] == [
        "a.yaml currency: must be USD, got 'EUR'",
        "a.yaml rules[1].input_rate: must be a number, got 'x'",
        "b.yaml cards: is not a known key; known here: currency, contracts, rules",
        "c.yaml: must be a mapping, got a list",
    ]
    assert found[-3].startswith("d.yaml")
    assert found[-2:] == [f"a.yaml rules[0]: {again}", f"b.yaml rules[0]: {again}"]


def test_card_files_that_nobody_read_are_a_problem() -> None:
    assert problems(CONFIG) == ["pricing.cards: names no rate-card file that was read"]


def test_anchors_do_not_blow_up() -> None:
    """A card may come from anybody: what its aliases grow to is bounded before it is read."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
        for before, name in zip("abcdef", "bcdefg", strict=True)
    )
    found = problems(CONFIG, ("a.yaml", bomb))
    assert len(found) == 1
    assert "the file holds more than 200000 values, its aliases written out" in found[0]


@pytest.mark.parametrize("text", ["pricing: [", "[]", "pricing: {cards: {a: b}}", "pricing: 5", ""])
def test_a_configuration_that_cannot_be_read_names_no_cards(text: str) -> None:
    assert card_names(text) == ()
