"""Idempotency keys, made once, where the answer was seen: a retried delivery carries the same one.

**Of the provider's id**, where that is one that no other answer has: then all who see the answer make the
same key, and the job prices it once. It is taken for one by its length (`is_unique`): providers and most
servers draw theirs, or make them of a UUID, while others count, or draw from a few hundred.

| id | of | is unique |
|---|---|---|
| `chatcmpl-` and 29 letters and digits, `resp_` and 50 | OpenAI, Azure | yes |
| `msg_01` and 22, `msg_bdrk_01…`, `msg_vrtx_01…` | Anthropic, and the clouds that serve it | yes |
| a UUID, as it is or after `chatcmpl-` | Converse's request ids, DeepSeek, xAI, Groq, LiteLLM | yes |
| 32 hexadecimal digits, as they are or after `chatcmpl-` | Mistral, vLLM, SGLang, llama.cpp | yes |
| `gen-1770000000-` and 20 | OpenRouter | yes |
| 22 or 23 of base64 | Gemini | yes |
| `chatcmpl-` and nanoseconds | text-generation-webui | yes |
| `chatcmpl-` and a number below 999, `resp_` and one below 999999 | Ollama | no |
| `chatcmpl-` and seconds or milliseconds, `chatcmpl-A1`, `0` | small servers | no |

**Else of this process's numbers**, as a UUIDv7 (RFC 9562, section 5.7): 48 bits of epoch milliseconds, then
bits that no other call has.
"""

from __future__ import annotations

import hashlib
import re
import uuid

KEY_CHARS_MAX = 256
"""The contract's limit of a key."""

UNIQUE_CHARS_MIN = 16
"""So long is an id that is drawn, and a time in nanoseconds; one in milliseconds has 13 digits."""

_KIND = re.compile(r"(?:[a-z]+[-_])+")
"""Words that an id begins with and that say what it is of, such as `chatcmpl-` or `msg_bdrk_`."""


def is_unique(response_id: str) -> bool:
    """Whether no other answer, of any server, can be thought to bear this id."""
    kind = _KIND.match(response_id)
    return len(response_id) - (kind.end() if kind else 0) >= UNIQUE_CHARS_MIN


def response_key(response_id: str, attempt: int, leg: int) -> str:
    """The key of one leg of a provider's response. Other parts give another key, whatever the id ends in.

    Args:
        response_id: The provider's id, one that `is_unique`.
        attempt: 1 for the first try of the call, 2 for its first retry.
        leg: 0 for the response itself, 1 and up for the further models that answered within it.
    """
    key = f"{response_id}-{attempt}" if leg == 0 else f"{response_id}-{attempt}/{leg}"
    if len(key) <= KEY_CHARS_MAX:
        return key
    return "sha256-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def process_key(epoch_ms: int, number: bytes) -> str:
    """A UUIDv7 for a call whose answer bears no id, or none that is unique.

    Args:
        epoch_ms: The clock; one that runs backwards costs the order of keys, not their uniqueness.
        number: 10 bytes that no other call has, as `observation.key_bytes` gives them: a start that is drawn
            for each process, from which it counts on.
    """
    value = (epoch_ms & (2**48 - 1)) << 80 | int.from_bytes(number[:10], "big")
    value = value & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | 0b10 << 62))
