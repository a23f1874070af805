"""Counts the tokens that a provider did not tell; what it did tell is never touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from metering.call import Call
from metering.count import ERROR_PERCENT_MAX, Count, TokenCounter
from metering.event import ATTRIBUTE_VALUE_CHARS_MAX
from metering.model_tokens import ModelTokens, tokens_of
from metering.usage import Usage, UsageSource

ANSWER_TOKENS = 3
"""The answer of OpenAI's chat models begins with three tokens of the input (see
`model_tokens.ModelTokens`).
"""

JOINED_ERROR_PERCENT = 10
"""Messages joined into one text hold characters that the provider has not seen, and tools as it does not read
them. An allowance, not measured: what providers make of tools is not published."""

_WEAKNESS: dict[UsageSource, int] = {"provider": 0, "tokenizer": 1, "estimate": 2}


@dataclass(frozen=True, slots=True)
class Texts:
    """What was said in a call, as far as it is text.

    Attributes:
        input_texts: One text for each message makes an exact count of a chat possible; all in one is counted
            too.
        output_text: What was visible of the answer.
        input_chars, output_chars: Their whole length, where only the beginning was kept; else 0.
        message_count: 0 for what is no chat, such as embeddings.
        is_joined: The input's messages, or messages and tools, stand in one text.
        uncountable: Names of what the input holds besides (`images`, `tools`): its tokens are not in the
            count.
    """

    input_texts: tuple[str, ...] = field(default=(), repr=False)
    output_text: str = field(default="", repr=False)
    input_chars: int = 0
    output_chars: int = 0
    message_count: int = 0
    is_joined: bool = False
    uncountable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Filled:
    """One count that was filled in; with `is_least` the true one may be any amount higher."""

    name: str
    count: Count
    is_least: bool


def filled(
    usages: Sequence[Usage], counter: TokenCounter, call: Call, texts: Texts, *, is_cut: bool
) -> list[Usage]:
    """The usages, with counts for what is None where there is a text to count.

    Only the response's own leg gets them: what further models read and wrote within it is not known. A count
    that was filled in makes the leg's source `tokenizer` or `estimate`, the weaker of all that went into it,
    and is explained by the attributes `counted`, `counted_by`, `counted_error_percent`, `counted_at_least`
    and `not_counted`.

    Args:
        usages: As read from the response; none at all is one of which nothing is known.
        is_cut: The stream ended early: more may have been generated, and billed, than was seen.

    Returns:
        At least one. Without a text an unknown count stays None, and the job keeps such an event in
        quarantine (`missing_field`): unknown is never zero.
    """
    found = list(usages) or [Usage()]
    own = next((at for at, usage in enumerate(found) if usage.leg == 0), None)
    if own is not None:
        found[own] = _fill_leg(found[own], counter, call, texts, is_cut=is_cut)
    return found


def _fill_leg(usage: Usage, counter: TokenCounter, call: Call, texts: Texts, *, is_cut: bool) -> Usage:
    model, provider = usage.model or call.model, usage.provider or call.provider
    tokens = tokens_of(model, provider)
    parts: list[_Filled] = []
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    if input_tokens is None and any(texts.input_texts):
        count = _input_count(texts, counter, model, provider, tokens)
        parts.append(_Filled("input", count, is_least=bool(texts.uncountable)))
        # The provider may have told the parts and not the whole, which holds them at least.
        input_tokens = max(count.tokens, usage.cache_read_tokens + usage.cache_write_tokens)
    if output_tokens is None and texts.output_text:
        count = counter.count(texts.output_text, model, provider, texts.output_chars)
        parts.append(_Filled("output", count, is_least=is_cut or tokens.may_think))
        output_tokens = count.tokens + usage.reasoning_tokens  # reasoning is not in the visible text
    if not parts:
        return usage
    sources: list[UsageSource] = [usage.usage_source]
    sources += ["estimate" if part.is_least else part.count.usage_source for part in parts]
    return replace(
        usage,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        usage_source=max(sources, key=_WEAKNESS.__getitem__),
        attributes={**usage.attributes, **_explained(parts, texts)},
    )


def _input_count(
    texts: Texts, counter: TokenCounter, model: str, provider: str, tokens: ModelTokens
) -> Count:
    pieces = [text for text in texts.input_texts if text]
    beyond = max(texts.input_chars - sum(map(len, pieces)), 0)
    # What was left off is taken to be like the last piece that was kept.
    counts = [counter.count(text, model, provider) for text in pieces[:-1]]
    counts.append(counter.count(pieces[-1], model, provider, len(pieces[-1]) + beyond))
    around = 0
    if texts.message_count and tokens.message_tokens:
        around = texts.message_count * tokens.message_tokens + ANSWER_TOKENS
    is_exact = all(count.usage_source == "tokenizer" for count in counts)
    error_percent = max(count.error_percent for count in counts)
    if texts.is_joined or texts.message_count not in (0, len(texts.input_texts)):
        is_exact = False
        error_percent = min(error_percent + JOINED_ERROR_PERCENT, ERROR_PERCENT_MAX)
    return Count(
        sum(count.tokens for count in counts) + around,
        "tokenizer" if is_exact else "estimate",
        ",".join(dict.fromkeys(count.counted_by for count in counts)),
        error_percent,
    )


def _explained(parts: Sequence[_Filled], texts: Texts) -> dict[str, str]:
    told = {
        "counted": ",".join(part.name for part in parts),
        "counted_by": ",".join(dict.fromkeys(part.count.counted_by for part in parts)),
        "counted_error_percent": str(max(part.count.error_percent for part in parts)),
        "counted_at_least": ",".join(part.name for part in parts if part.is_least),
        "not_counted": ",".join(texts.uncountable) if parts[0].name == "input" else "",
    }
    return {name: value[:ATTRIBUTE_VALUE_CHARS_MAX] for name, value in told.items() if value}
