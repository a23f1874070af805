"""What is said to whoever writes an entry of a rate card wrongly."""

from __future__ import annotations

import pytest

from pricing.card_values import Clause
from pricing.settings import load_settings
from tests.pricing.card_entries import FREE, PLAIN, problems, rules

ZONE = "such as 2026-01-01T00:00:00Z"
MILLION = "add per: 1_000_000 if it is for a million tokens, or confirm_rates_above: 5 if it is right"
OWN = "must be given where the entry has price rates of its own, and nowhere else"
CLAUSES = "equals, starts_with, ends_with, contains, regex, and, or"


@pytest.mark.parametrize(
    ("pattern", "is_taken"),
    [
        # As catalogues of prices write them.
        (r"^(?!.*-[tT][tT][sS](?:$|-))", True),
        (r"^(typesafe/)?jev-1\.13(-\d{8})?$", True),
        (r"^gpt-5\.6-sol-\d{4}-\d{2}-\d{2}$", True),
        (r"^composer-2\.5\[fast=false\]$", True),
        (r"[*+?|(){}]", True),
        (r"\*\+\?\|\)\*", True),
        (r"a*?b+?", True),
        (r"a*b+", True),
        (r"a*b*c*", False),
        (r"a{1,9}b{,9}c{9,}", False),
        (r"a?b?c?d?e?f?", True),
        (r"a?b?c?d?e?f?g?", False),
        (r"(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)", False),
        # What takes two to the power of the name's length.
        (r"^(a+)+$", False),
        (r"^(a|a)*$", False),
        (r"^(?:a?){40}a{40}$", False),
        (r"^(?:[a)]*){9}$", False),
        (r"^(\w*)\1*$", True),
    ],
)
def test_a_pattern_that_could_hold_the_job_up_is_refused(pattern: str, is_taken: bool) -> None:
    text = rules(f"match: {{regex: '{pattern}'}}, {FREE}")
    if is_taken:
        assert load_settings(text).pricing.rules[0].match == Clause("regex", pattern)
    else:
        few = "must repeat no group, and have at most 2 of *, + and {,}, and 6 of these, ? and | together"
        assert problems(text) == [f"pricing.rules[0].match.regex: {few}, got {pattern!r}"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "model: m, input_rate: -1, output_rate: 0",
            "input_rate: must be positive (zero is allowed), got -1",
        ),
        ("model: m, input_rate: .inf, output_rate: 0", "input_rate: must be a number, got .inf"),
        ("model: m, input_rate: 1e999, output_rate: 0", "input_rate: must be at most 1000, got 1e999"),
        (
            "model: m, input_rate: 1e-999, output_rate: 0",
            "input_rate: must have at most 18 digits after the point, got 1e-999",
        ),
        (
            "model: m, per: 1_000_000, input_rate: 1e-13, output_rate: 0",
            "input_rate: must have at most 12 digits after the point, got 1e-13",
        ),
        (
            "model: m, input_rate: 5, output_rate: 0",
            f"input_rate: is over 0.01 USD for one token, got 5: {MILLION}",
        ),
        (
            "model: m, input_rate: 5, output_rate: 0, confirm_rates_above: 4.99",
            f"input_rate: is over 0.01 USD for one token, got 5: {MILLION}",
        ),
        (f"{PLAIN}, per: 1_000_0", "per: must be 1, 1_000 or 1_000_000, got 1_000_0"),
        (f"{PLAIN}, model_prefix: m", ": must have only one of model and model_prefix"),
        (
            f"{PLAIN}, effective_from: 2026-01-01",
            f"effective_from: must say in which zone the day begins, {ZONE}, got 2026-01-01",
        ),
        (
            f"{PLAIN}, effective_from: '2026-01-01T00:00:00'",
            f"effective_from: must be a date and time with an offset, {ZONE}, got 2026-01-01T00:00:00",
        ),
        (
            f"{PLAIN}, effective_from: soon",
            f"effective_from: must be a date and time with an offset, {ZONE}, got 'soon'",
        ),
        (
            f"{PLAIN}, effective_from: 2026-01-01T00:00:00Z, effective_until: 2026-01-01T01:00:00+01:00",
            "effective_until: must be after effective_from",
        ),
        (f"{PLAIN}, gap: meant", "gap: must be intended, got 'meant'"),
        (
            f"{PLAIN}, time_of_day: {{from: 1:30}}",
            "time_of_day.from: must be a time from 00:00 to 24:00, got 1:30",
        ),
        (
            f"{PLAIN}, time_of_day: {{until: '24:01'}}",
            "time_of_day.until: must be a time from 00:00 to 24:00, got 24:01",
        ),
        (
            f"{PLAIN}, time_of_day: {{from: '12:60'}}",
            "time_of_day.from: must be a time from 00:00 to 24:00, got 12:60",
        ),
        (
            f"{PLAIN}, time_of_day: {{from: '07:00', until: '07:00'}}",
            "time_of_day: must not end when it begins",
        ),
        (
            f"{PLAIN}, time_of_day: {{weekdays: [monday]}}",
            "time_of_day.weekdays[0]: must be mon, tue, wed, thu, fri, sat or sun, got 'monday'",
        ),
        (
            f"{PLAIN}, time_of_day: {{timezone: Mars/Olympus}}",
            "time_of_day.timezone: must be a time zone such as Europe/Vienna, got 'Mars/Olympus'",
        ),
        (
            f"{PLAIN}, units: {{Pages: {{rate: 1}}}}",
            "units.Pages: must be a name of small letters, digits and '_', got 'Pages'",
        ),
        (f"{PLAIN}, units: {{pages: 1}}", "units.pages: must be a mapping, got a single value"),
        (f"{PLAIN}, units: {{pages: {{}}}}", "units.pages.rate: is missing"),
        (
            f"{PLAIN}, units: {{input_audio_tokens: {{rate: 1}}}}",
            "units.input_audio_tokens: is a class of tokens: give it input_audio_rate instead",
        ),
        (f"{PLAIN}, request_fee: -1", "request_fee: must be positive (zero is allowed), got -1"),
        (
            f"{PLAIN}, minimum_charge: 1e-13",
            "minimum_charge: must have at most 12 digits after the point, got 1e-13",
        ),
        (
            f"{PLAIN}, credit_multiplier: 1, credits: {{input: 1, output: 1}}",
            ": has both credit_multiplier and credits: give one of them",
        ),
        (f"{PLAIN}, credits: {{input: 1}}", "credits.output: is missing"),
        (
            f"{PLAIN}, context_tiers: [{{{FREE}}}]",
            "context_tiers[0]: must have one of above and from",
        ),
        (
            f"{PLAIN}, cache_read_rate: 0, context_tiers: [{{above: 9, {FREE}}}]",
            "context_tiers[0]: lacks cache_read_rate, which the entry has",
        ),
        (
            f"{PLAIN}, input_audio_rate: 0, context_tiers: [{{above: 9, {FREE}}}]",
            "context_tiers[0]: lacks input_audio_rate, which the entry has",
        ),
        (
            f"{PLAIN}, context_tiers: [{{above: 9, {FREE}, request_fee: 1}}]",
            "context_tiers[0].request_fee: must stand in the entry itself: it does not depend on the context",
        ),
        (
            f"{PLAIN}, context_tiers: [{{above: 9, {FREE}}}, {{from: 10, {FREE}}}]",
            "context_tiers[1]: must begin above the context tier before it",
        ),
        (
            f"{PLAIN}, price: {{{FREE}}}, context_tiers: [{{above: 9, {FREE}}}]",
            f"context_tiers[0].price: {OWN}",
        ),
        (
            f"{PLAIN}, units: {{pages: {{rate: 1}}}}, price: {{{FREE}}}",
            "price: lacks units.pages, which the entry has",
        ),
        (
            "match: {}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 0",
        ),
        (
            "match: {equals: a, regex: a}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 2",
        ),
        ("match: {or: []}, input_rate: 0, output_rate: 0", "match.or: must have 1 or more entries, got 0"),
        (
            "match: {is: a}, input_rate: 0, output_rate: 0",
            f"match: must have one clause ({CLAUSES}), got 0",
        ),
        (f"match: {{regex: '['}}, {FREE}", "match.regex: must be a regular expression, got '['"),
        (
            f"match: {{regex: {'a' * 257}}}, input_rate: 0, output_rate: 0",
            "match.regex: must have 1 to 256 characters, got 257",
        ),
    ],
)
def test_each_mistake_is_one_sentence(entry: str, expected: str) -> None:
    found = problems(rules(entry))
    separator = "" if expected.startswith(": ") else "."
    assert f"pricing.rules[0]{separator}{expected}" == found[0]
    assert len([one for one in found if "is not a known key" not in one]) == 1
