"""Random and mutated lines through the whole job: no crash, every line counted, and as the auditor says.

    python -m tests.simulation.fuzz --seed 1 --lines 1000000

Lines are those of a generated day, most of them bent: bytes flipped, cut, doubled or inserted, values
exchanged for odd ones, two lines spliced, and plain noise. Hypothesis searches small cases in
tests/metering and tests/dataflows; this is the wide net.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

from dataflows.traffic import TrafficShape, generate
from tests.auditor import Audit, audit, load_config
from tests.auditor_event import lines_of_file
from tests.integration.running import Place, assert_agrees

LINES_A_RUN = 100_000
UNTOUCHED = 0.3
DAY = date(2026, 3, 17)

_ODD_TOKENS = r"""
null true false 0 -0 -1 1.0 1e2 1E400 -1e-400 0.1 00 01 +1 1. .5 NaN Infinity -Infinity
9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616 1e18
1234567890123456789012345678 "" "\u0000" "\ud800" "\udc00\ud800" "\u00e9" "\"" "1" "null" {} [] [[]]
{"a":1} {"":null} [1,2] {"input_tokens":5}
"2026-03-17T10:00:00Z" "2026-02-30T10:00:00Z" "2026-03-17T23:59:60Z" "0001-01-01T00:00:00Z" "1970-01-01"
"9999-12-31T23:59:59.999999999+00:00"
"""
_ODD_BYTES = (
    b'" "',
    b"[" * 500,
    b'{"a":' * 300,
    b'"' + b"x" * 5_000 + b'"',
    '"\u2028\U0001f600\u202e"'.encode(),
    b'"\xff\xfe"',
    b'"\xc0\x80"',
)
ODD = (*(token.encode() for token in _ODD_TOKENS.split()), *_ODD_BYTES)
_VALUE = re.compile(rb'(?<=":)("(?:[^"\\]|\\.)*"|[^,{}\[\]"]+)')
_NAME = re.compile(rb'"(\w+)":')

Mutation = Callable[[bytes, random.Random, list[bytes]], bytes]


def _flip(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    bent = bytearray(line)
    for _turn in range(chance.randint(1, 4)):
        bent[chance.randrange(len(bent))] = chance.randrange(256)
    return bytes(bent)


def _cut(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    start, end = sorted(chance.choices(range(len(line) + 1), k=2))
    return line[:start] + line[end:]


def _double(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    start, end = sorted(chance.choices(range(len(line) + 1), k=2))
    return line[:end] + line[start:]


def _insert(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    at = chance.randrange(len(line) + 1)
    noise = chance.choice(
        (b"\x00", b"\xff", b"\r", b'"', b"\\", b"}", b"{", b",", b":", b"\xe2\x80\xa8", b"\xef\xbb\xbf")
    )
    return line[:at] + noise + line[at:]


def _splice(line: bytes, chance: random.Random, lines: list[bytes]) -> bytes:
    other = chance.choice(lines)
    return line[: chance.randrange(len(line) + 1)] + other[chance.randrange(len(other) + 1) :]


def _odd_value(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    found = list(_VALUE.finditer(line))
    if not found:
        return line
    start, end = chance.choice(found).span()
    return line[:start] + chance.choice(ODD) + line[end:]


def _name(line: bytes, chance: random.Random, _: list[bytes]) -> bytes:
    """Rename a field, to another one's name or its own in capitals."""
    found = list(_NAME.finditer(line))
    if not found:
        return line
    start, end = chance.choice(found).span(1)
    other = chance.choice(found).group(1)
    return line[:start] + chance.choice((other, other.upper(), b"metadata", b"")) + line[end:]


def _noise(_: bytes, chance: random.Random, __: list[bytes]) -> bytes:
    return chance.randbytes(chance.randint(1, 200))


def _json(_: bytes, chance: random.Random, __: list[bytes]) -> bytes:
    """Some valid JSON that is no event."""
    values = (None, 1, -1.5, "s", [1, [2]], {"tenant_id": {"tenant_id": 1}}, [{"model": "gpt-4o"}])
    return json.dumps(chance.choice(values)).encode()


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _cut,
    _double,
    _insert,
    _splice,
    _odd_value,
    _odd_value,
    _odd_value,
    _name,
    _noise,
    _json,
)


def fuzzed(seed: int, count: int) -> bytes:
    """About `count` lines, the same for the same seed."""
    chance = random.Random(seed)
    shape = TrafficShape(events=count, seed=seed, day=DAY, malformed_fraction=0.02)
    lines = b"".join(generate(shape)).splitlines()
    bent = []
    for line in lines:
        changed = line
        while chance.random() > UNTOUCHED and changed:
            changed = chance.choice(MUTATIONS)(changed, chance, lines)
        bent.append(changed)
    return b"\n".join(bent) + b"\n"


def run_fuzzed(root: Path, seed: int, count: int) -> Audit:
    """One run, judged; returns what the auditor found.

    Raises:
        AssertionError: the job failed, lost count of a line, or differs from the auditor.
    """
    place = Place(root)
    path = root / "events.jsonl"
    path.write_bytes(fuzzed(seed, count))
    code, stderr = place.run(f"file://{path}")
    assert code == 0, stderr
    expected = audit(lines_of_file(path), load_config(place.config), now_ms=time.time_ns() // 1_000_000)
    read, priced, duplicates, quarantined = place.ask(
        "SELECT (SELECT sum(events_read) FROM source_progress FINAL), (SELECT count() FROM usage),"
        " (SELECT count() FROM duplicates FINAL), (SELECT count() FROM quarantine)"
    )[0]
    assert read == priced + duplicates + quarantined == expected.read
    assert_agrees(place, expected)
    return expected


def main() -> int:
    """Run until there were enough lines; 1 at the first that goes wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=1_000_000)
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    seed = arguments.seed
    while total["read"] < arguments.lines:
        with tempfile.TemporaryDirectory() as directory:
            try:
                found = run_fuzzed(Path(directory), seed, min(LINES_A_RUN, arguments.lines))
            except AssertionError as wrong:
                sys.stdout.write(f"seed {seed}: {wrong}\n")
                return 1
        reasons = Counter(f"quarantined: {reason}" for _, reason in found.quarantined)
        total += (
            Counter(read=found.read, priced=len(found.priced), duplicates=len(found.duplicates)) + reasons
        )
        sys.stdout.write(f"seed {seed}: {total['read']:,} lines, none wrong\n")
        sys.stdout.flush()
        seed += 1
    sys.stdout.write("".join(f"{what}: {count:,}\n" for what, count in sorted(total.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
