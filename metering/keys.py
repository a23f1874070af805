"""Idempotency keys, made once, where the answer was seen: a retried delivery carries the same one.

UUIDv7 as in RFC 9562, section 5.7: 48 bits of epoch milliseconds, then random bits.
"""

from __future__ import annotations

import hashlib
import uuid

KEY_CHARS_MAX = 256
"""The contract's limit of a key."""


def response_key(response_id: str, attempt: int, leg: int) -> str:
    """The key of one leg of a provider's response.

    Args:
        response_id: The provider's id, of at least one character.
        attempt: 1 for the first try of the call, 2 for its first retry.
        leg: 0 for the response itself, 1 and up for the further models that answered within it.
    """
    key = f"{response_id}-{attempt}" if leg == 0 else f"{response_id}-{attempt}-{leg}"
    if len(key) <= KEY_CHARS_MAX:
        return key
    return "sha256-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def random_key(epoch_ms: int, random_bytes: bytes) -> str:
    """A UUIDv7 for a call whose answer bears no id.

    Args:
        epoch_ms: The clock; one that runs backwards costs the order of keys, not their uniqueness.
        random_bytes: 10 bytes that no other call has, as `os.urandom` gives them.
    """
    value = (epoch_ms & (2**48 - 1)) << 80 | int.from_bytes(random_bytes[:10], "big")
    value = value & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | 0b10 << 62))
