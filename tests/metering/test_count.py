"""Counting tokens: exact where the model's own encoding is here, and a stated error where it is not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import count as count_module
from metering import vocabulary
from metering.count import CHARS_MAX, PIECE_CHARS_MAX, Count, OwnCounter, TokenCounter, shared, use
from metering.estimate import ERROR_PERCENT, tokens_from_bytes
from metering.model_tokens import ENCODINGS
from metering.vocabulary import VocabularyMissing, find
from tests.metering.sample_texts import ENGLISH, TEXTS


def are_here() -> bool:
    try:
        return all(find(name, os.environ) for name in ENCODINGS)
    except VocabularyMissing:
        return False


with_vocabularies = pytest.mark.skipif(not are_here(), reason="the extra `tokens` is not installed")


class NothingHere(TokenCounter):
    """A counter on a machine without vocabularies."""

    def _encoding(self, name: str) -> None:  # noqa: ARG002
        return None


COUNTER, BYTES = TokenCounter(), NothingHere()


@with_vocabularies
@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("gpt-4o", "tiktoken is great!", Count(6, "tokenizer", "o200k_base", 0)),
        ("gpt-4", "antidisestablishmentarianism", Count(6, "tokenizer", "cl100k_base", 0)),
        ("gpt-5.6", "2 + 2 = 4", Count(7, "tokenizer", "o200k_base", 0)),
        ("gpt-4", "お誕生日おめでとう", Count(9, "tokenizer", "cl100k_base", 0)),
        ("gpt-4o", "お誕生日おめでとう", Count(8, "tokenizer", "o200k_base", 0)),
        ("gpt-4o", "<|endoftext|>", Count(7, "tokenizer", "o200k_base", 0)),
        ("gpt-6", "2 + 2 = 4", Count(7, "estimate", "o200k_base", 25)),
        ("claude-sonnet-4-5", "2 + 2 = 4", Count(9, "estimate", "o200k_base × 120 %", 30)),
        ("nobody-knows", "2 + 2 = 4", Count(9, "estimate", "o200k_base × 115 %", 50)),
        ("gpt-4o", "", Count(0, "tokenizer", "o200k_base", 0)),
    ],
)
def test_counts(model: str, text: str, expected: Count) -> None:
    assert COUNTER.count(text, model) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", Count(170, "estimate", "bytes", 30)),
        ("gpt-4", Count(187, "estimate", "bytes × 110 %", 50)),
        ("gpt-6", Count(170, "estimate", "bytes", 55)),
        ("claude-sonnet-5", Count(247, "estimate", "bytes × 145 %", 75)),
    ],
)
def test_without_a_vocabulary_bytes_are_counted(model: str, expected: Count) -> None:
    assert BYTES.count(ENGLISH, model) == expected


@with_vocabularies
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("kind", TEXTS)
def test_the_estimate_from_bytes_is_within_its_error(kind: str, model: str) -> None:
    true, found = COUNTER.count(TEXTS[kind], model), BYTES.count(TEXTS[kind], model)
    assert true.usage_source == "tokenizer"
    assert abs(found.tokens - true.tokens) * 100 <= found.error_percent * true.tokens


@with_vocabularies
@pytest.mark.parametrize("kind", TEXTS)
def test_the_estimate_of_o200k_is_within_its_error_for_pieces_too(kind: str) -> None:
    # Pieces of a message's size; short ones differ more, by few tokens.
    text = TEXTS[kind]
    for piece in [text[at : at + 300] for at in range(0, len(text) - 300, 300)]:
        true = COUNTER.count(piece, "gpt-4o").tokens
        assert abs(tokens_from_bytes(piece) - true) * 100 <= (ERROR_PERCENT + 10) * true


@with_vocabularies
@pytest.mark.parametrize(("model", "name"), [("llama-4-maverick", "llama3"), ("qwen3-max", "qwen3")])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_stand_in_is_within_its_error(kind: str, model: str, name: str) -> None:
    quicktok = pytest.importorskip("quicktok", reason="the extra `tokens` is not installed")
    true = len(quicktok.get_encoding(name).encode(TEXTS[kind]))
    for found in (COUNTER.count(TEXTS[kind], model), BYTES.count(TEXTS[kind], model)):
        assert abs(found.tokens - true) * 100 <= found.error_percent * true


# The application's own counters


def raises(_: str) -> int:
    raise RuntimeError("the text is a secret")


@pytest.mark.parametrize(
    ("own", "model", "expected"),
    [
        ({"claude-": OwnCounter(len, 5)}, "claude-opus-5", Count(2, "estimate", "own counter claude-", 5)),
        ({"claude-": OwnCounter(len, 0)}, "claude-opus-5", Count(2, "tokenizer", "own counter claude-", 0)),
        (
            {"claude-": OwnCounter(len, 0), "claude-opus": OwnCounter(lambda _: 7, 1)},
            "us.anthropic.claude-opus-5",
            Count(7, "estimate", "own counter claude-opus", 1),
        ),
        ({"acme/": OwnCounter(len, 0)}, "acme/small", Count(2, "tokenizer", "own counter acme/", 0)),
        ({"claude-": OwnCounter(raises, 0)}, "gpt-4o", Count(1, "estimate", "bytes", 30)),
        ({"gpt-": OwnCounter(raises, 0)}, "gpt-4o", Count(1, "estimate", "bytes", 30)),
        ({"gpt-": OwnCounter(lambda _: -1, 0)}, "gpt-4o", Count(1, "estimate", "bytes", 30)),
        ({"gpt-": OwnCounter(lambda _: True, 0)}, "gpt-4o", Count(1, "estimate", "bytes", 30)),
    ],
)
def test_an_own_counter_goes_first(own: dict[str, OwnCounter], model: str, expected: Count) -> None:
    assert NothingHere(own).count("hi", model) == expected


def test_a_counter_that_fails_is_told_once_and_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    counter = NothingHere({"gpt-": OwnCounter(raises, 0)})
    for _ in range(3):
        counter.count("my text", "gpt-4o")
    assert counter.failures == {"gpt-": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "gpt- could not count a text (RuntimeError); it is estimated."
    ]


# Bounds


@with_vocabularies
def test_a_long_text_is_counted_in_pieces_and_says_so() -> None:
    text = "word " * (PIECE_CHARS_MAX // 5)
    assert COUNTER.count(text, "gpt-4o") == Count(PIECE_CHARS_MAX // 5 + 1, "tokenizer", "o200k_base", 0)
    found = COUNTER.count(text * 2, "gpt-4o")
    assert (found.usage_source, found.error_percent) == ("estimate", 1)
    assert abs(found.tokens - 2 * PIECE_CHARS_MAX // 5) <= 4


def test_of_a_longer_text_only_the_beginning_is_counted() -> None:
    seen = []

    def measure(text: str) -> int:
        seen.append(len(text))
        return len(text) // 4

    counter = NothingHere({"m": OwnCounter(measure, 0)})
    found = counter.count("x" * (CHARS_MAX + CHARS_MAX // 2), "m")
    assert seen == [CHARS_MAX]
    assert found == Count(CHARS_MAX * 3 // 8, "estimate", "own counter m", 50)


def test_the_rest_of_a_text_that_was_not_kept_is_scaled() -> None:
    counter = NothingHere({"m": OwnCounter(len, 0)})
    assert counter.count("abcd", "m", chars_total=10) == Count(10, "estimate", "own counter m", 50)
    assert counter.count("abcd", "m", chars_total=3) == Count(4, "tokenizer", "own counter m", 0)
    assert counter.count("", "m", chars_total=10) == Count(0, "tokenizer", "own counter m", 0)


@with_vocabularies
def test_a_panic_of_the_encoder_is_an_estimate(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A million blanks overflow the stack of tiktoken 0.14.0's expressions: PanicException, no Exception.
    blanks = " " * 1_000_000
    assert COUNTER.count(blanks, "gpt-4o").counted_by == "o200k_base"
    monkeypatch.setattr(count_module, "PIECE_CHARS_MAX", len(blanks))
    counter = TokenCounter()
    assert counter.count(blanks, "gpt-4o").counted_by == "bytes"
    assert counter.failures == {"o200k_base": 1}
    assert "StackOverflow" in capfd.readouterr().err  # what Rust prints by itself


# Any text at all, and texts of what is peculiar to tokenizers, among them half a surrogate pair.
PECULIAR = "aA1 .\n<|>字é👩\ud800\x00"
TEXT = st.text(st.characters(), max_size=200) | st.text(PECULIAR)


@given(TEXT, st.sampled_from(["gpt-4o", "gpt-4", "claude-opus-5", "", "x"]))
def test_no_text_makes_it_raise(text: str, model: str) -> None:
    for counter in (COUNTER, BYTES):
        found = counter.count(text, model)
        assert found.tokens >= bool(text)
        assert found.error_percent <= 100
        assert counter.failures == {}


@given(TEXT, TEXT)
def test_the_estimate_of_two_texts_is_that_of_both(first: str, second: str) -> None:
    together = tokens_from_bytes(first + second)
    assert together <= tokens_from_bytes(first) + tokens_from_bytes(second) <= together + 2


@given(st.text(max_size=100), st.text(max_size=300))
def test_no_name_makes_it_raise(model: str, provider: str) -> None:
    assert BYTES.count("text", model, provider).tokens >= 1


@with_vocabularies
def test_any_number_of_threads_may_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_loaded", {})
    expected = {kind: COUNTER.count(text, "gpt-4o") for kind, text in TEXTS.items()}
    counter = TokenCounter()

    def count(kind: str) -> tuple[str, Count]:
        return kind, counter.count(TEXTS[kind], "gpt-4o")

    with ThreadPoolExecutor(8) as threads:
        for kind, found in threads.map(count, [*TEXTS] * 20):
            assert found == expected[kind]


# At start


@with_vocabularies
def test_loading_says_where_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counter = TokenCounter()
    counter.load()
    counter.load()
    told = [(record.name, record.levelname) for record in caplog.records]
    assert told == [("meterline", "INFO"), ("meterline", "INFO")]
    assert (
        caplog.records[0].getMessage().startswith("Tokens of o200k_base are counted with the vocabulary of ")
    )


def test_loading_says_once_why_estimates_are_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_places", lambda *_: iter(()))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(vocabulary, "_loaded", {})
    counter = TokenCounter()
    counter.load()
    assert counter.count("hi", "gpt-4o").counted_by == "bytes"
    assert [record.getMessage() for record in caplog.records] == [
        f"Tokens of {name} are estimated from bytes: the vocabulary of {name} is not on this machine."
        for name in ENCODINGS
    ]


def test_a_tiktoken_that_works_otherwise_is_an_estimate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS", {})
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(vocabulary, "_loaded", {})
    counter = TokenCounter()
    assert counter.count("hi", "gpt-4o").counted_by == "bytes"
    assert "loading failed (KeyError('o200k_base'))" in caplog.text


def test_the_process_has_one_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_module, "_shared", [])
    assert shared() is shared()
    mine = TokenCounter()
    use(mine)
    assert shared() is mine


AT_THE_END = """
import atexit
from metering.count import TokenCounter
atexit.register(lambda: print(TokenCounter().count("tiktoken is great!", "gpt-4o").counted_by))
"""


@with_vocabularies
def test_a_vocabulary_is_loaded_at_the_end_of_the_process_too() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"o200k_base\n"
