"""Where Bytewax sends a key, so that what is large can stay in the process that read it.

Bytewax 0.21.1 gives a key to the worker whose number is its hash modulo the number of workers: Rust's default
hash of a text, which is SipHash-1-3 with a key of zeros over the text's bytes and 0xFF. It promises nothing
of the kind; should another version do otherwise, items travel further and all results stay the same.
"""

from __future__ import annotations

from functools import cache
from itertools import count, islice

_SPREAD = 840
"""The least common multiple of 1 to 8: a hash that is i modulo this is i modulo each of them, too."""
_MASK = 2**64 - 1
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
"""The initial state for a key of zeros (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012)."""


def worker_of(key: str, workers: int) -> int:
    """The number of the worker that Bytewax gives a key to."""
    return _sip_1_3(key.encode() + b"\xff") % workers


@cache
def keys_of(worker: int, workers: int, wanted: int) -> tuple[str, ...]:
    """So many keys that all go to this worker."""
    numbered = (f"{number:02d}" for number in count())
    return tuple(islice((key for key in numbered if worker_of(key, workers) == worker), wanted))


@cache
def shard_keys(shards: int) -> tuple[str, ...]:
    """A key for each shard, such that of up to eight workers shard i goes to worker i modulo their number.

    Keys taken as they come do not spread: of "00" to "07" two workers would have seven and one.
    """
    return tuple(_spread_key(shard) for shard in range(shards))


def _spread_key(shard: int) -> str:
    tried = (f"{shard:02d}.{number}" for number in count())
    return next(key for key in tried if worker_of(key, _SPREAD) == shard % _SPREAD)


def _sip_1_3(data: bytes) -> int:
    v0, v1, v2, v3 = _START
    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56)
    for word in words:
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotated(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotated(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotated(v1, 17) ^ v2
    return v0, v1, _rotated(v2, 32), v3


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK
