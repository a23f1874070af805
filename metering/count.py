"""Tokens of a text, where the provider says nothing, and how good the figure is.

Three ways, the best that there is: a counter of the application's own for the model; the model's encoding, or
the nearest one, from a vocabulary on this machine (`vocabulary.py`); the text's bytes (`estimate.py`).
Nothing is ever fetched, and no text makes it raise: special tokens in a text are text.

**Where it runs.** Not in a request: an `Observation` is expanded in the meter's sender thread. tiktoken
releases the interpreter while it encodes (10 MB of text a second), but not while it loads a vocabulary: then
other threads stand still for up to half a second, once. Call `load()` when the application starts. A
stream that the end of the process cuts may be the first to need a vocabulary, which is then loaded all the
same.

**Threads.** Any number of them may count. Two that find an encoding not loaded both load it, and one copy
stays; there is no lock, so none that a fork could leave locked.

**Bounds.** `PIECE_CHARS_MAX` and `CHARS_MAX`, below; at most the encodings of `model_tokens.ENCODINGS` are
held.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # tiktoken needs it, and it cannot be loaded at the very end
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from metering import estimate
from metering.model_tokens import CL100K, ENCODINGS, ModelTokens, bare_name, tokens_of
from metering.vocabulary import VocabularyMissing, load

if TYPE_CHECKING:
    from tiktoken import Encoding

logger = logging.getLogger("meterline")

PIECE_CHARS_MAX = 400_000
"""Longer texts are encoded in pieces: somewhere above 500,000 blanks in a row, tiktoken 0.14.0 gives up."""

CHARS_MAX = 4_000_000
"""Of a longer text the beginning is counted, and the rest taken to be like it: about a million tokens, the
largest context that models have, and half a second of work."""

PIECES_ERROR_PERCENT = 1
SCALED_ERROR_PERCENT = 50
CL100K_BYTES_PERCENT, CL100K_BYTES_ERROR_PERCENT = 110, 20
"""`estimate.py` is fitted to `o200k_base`; `cl100k_base` has as many tokens for English and code and up to
1.75 times as many for other scripts (`tests/metering/sample_texts.py`)."""

ERROR_PERCENT_MAX = 100


@dataclass(frozen=True, slots=True)
class Count:
    """A text's tokens.

    `counted_by` names the encoding, the application's counter, or `bytes`, and its factor.
    `error_percent` bounds the difference from the model's own count of the same text, of that count.
    """

    tokens: int
    usage_source: Literal["tokenizer", "estimate"]
    counted_by: str
    error_percent: int


@dataclass(frozen=True, slots=True)
class OwnCounter:
    """A counter of the application's own: `count` gives a text's tokens.

    `error_percent` is how far it may be off; only at 0 are its figures called `tokenizer`.
    """

    count: Callable[[str], int]
    error_percent: int


class TokenCounter:
    """Counts tokens.

    Args:
        by_model: Counters of the application's own, by the beginning of the model's name (`"claude-"`); the
            longest that fits is asked first. One that raises, or gives no count, is passed over.
        environ: Where directories of vocabularies are named (`vocabulary.py`).
    """

    def __init__(
        self,
        by_model: Mapping[str, OwnCounter] = MappingProxyType({}),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._own = sorted(by_model.items(), key=lambda item: -len(item[0]))
        self._environ = environ
        self._encodings: dict[str, Encoding | None] = {}
        self._failures: dict[str, int] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each counter or encoding could not count a text, by name."""
        return dict(self._failures)

    def load(self) -> None:
        """Load what there is, and say once where it is from, or that estimates take its place and why."""
        for name in ENCODINGS:
            self._encoding(name)

    def count(self, text: str, model: str, provider: str = "", chars_total: int = 0) -> Count:
        """The tokens of a text. Never raises.

        Args:
            chars_total: The whole text's length, where `text` is only its beginning; 0 where it is all.
        """
        whole = max(chars_total, len(text))
        counted = text[:CHARS_MAX]
        found = self._by_own_counter(counted, model)
        if found is None:
            tokens = tokens_of(model, provider)
            found = self._by_encoding(counted, tokens) or _by_bytes(counted, tokens)
        if whole <= len(counted) or not counted:
            return found
        scaled = -(-found.tokens * whole // len(counted))
        error_percent = min(found.error_percent + SCALED_ERROR_PERCENT, ERROR_PERCENT_MAX)
        return Count(scaled, "estimate", found.counted_by, error_percent)

    def _by_own_counter(self, text: str, model: str) -> Count | None:
        names = (bare_name(model), model)
        for prefix, own in self._own:
            if not any(name.startswith(prefix) for name in names):
                continue
            try:
                tokens: object = own.count(text)
                if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
                    raise TypeError("it gave no count")  # noqa: TRY301  # as good as an error of its own
            except Exception as exc:  # noqa: BLE001  # the application's code
                self._failed(prefix, exc)
                continue
            source: Literal["tokenizer", "estimate"] = "estimate" if own.error_percent else "tokenizer"
            return Count(tokens, source, f"own counter {prefix}", own.error_percent)
        return None

    def _by_encoding(self, text: str, tokens: ModelTokens) -> Count | None:
        encoding = self._encoding(tokens.encoding)
        if encoding is None:
            return None
        pieces = [text[at : at + PIECE_CHARS_MAX] for at in range(0, len(text), PIECE_CHARS_MAX)]
        try:
            count = sum(len(encoding.encode_ordinary(piece)) for piece in pieces)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001  # a panic in Rust is no Exception
            self._failed(tokens.encoding, exc)
            return None
        error_percent = tokens.error_percent + (PIECES_ERROR_PERCENT if len(pieces) > 1 else 0)
        is_exact = tokens.is_exact and not error_percent
        return Count(
            _percent_of(count, tokens.percent),
            "tokenizer" if is_exact else "estimate",
            _named(tokens.encoding, tokens.percent),
            error_percent,
        )

    def _encoding(self, name: str) -> Encoding | None:
        if name not in self._encodings:
            try:
                encoding, source = load(name, self._environ)
            except VocabularyMissing as exc:
                self._encodings[name] = None
                logger.warning("Tokens of %s are estimated from bytes: %s.", name, exc)
            except Exception as exc:  # noqa: BLE001  # another version of tiktoken, no memory
                self._encodings[name] = None
                logger.warning("Tokens of %s are estimated from bytes: loading failed (%r).", name, exc)
            else:
                self._encodings[name] = encoding
                logger.info("Tokens of %s are counted with the vocabulary of %s.", name, source)
        return self._encodings[name]

    def _failed(self, name: str, exc: BaseException) -> None:
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] == 1:  # the text is the customer's: only the kind of error is told
            logger.warning("%s could not count a text (%s); it is estimated.", name, type(exc).__name__)


def _by_bytes(text: str, tokens: ModelTokens) -> Count:
    percent, error_percent = tokens.percent, estimate.ERROR_PERCENT + tokens.error_percent
    if tokens.encoding == CL100K:
        percent, error_percent = CL100K_BYTES_PERCENT, estimate.ERROR_PERCENT + CL100K_BYTES_ERROR_PERCENT
    return Count(
        _percent_of(estimate.tokens_from_bytes(text), percent),
        "estimate",
        _named("bytes", percent),
        min(error_percent, ERROR_PERCENT_MAX),
    )


def _percent_of(count: int, percent: int) -> int:
    return -(-count * percent // 100)


def _named(name: str, percent: int) -> str:
    return name if percent == 100 else f"{name} × {percent} %"


_shared: list[TokenCounter] = []


def shared() -> TokenCounter:
    """The counter of this process: the one given to `use`, or one made when first asked for."""
    if not _shared:
        _shared.append(TokenCounter())
    return _shared[0]


def use(counter: TokenCounter) -> None:
    """Make this the counter of the process, for records that bring none of their own."""
    _shared[:] = [counter]
