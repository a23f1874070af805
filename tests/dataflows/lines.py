"""Lines as producers, careless producers and attackers write them, for everything that reads lines.

`good_line` and `odd_line` draw from a `random.Random`, so that a test or a fuzz target can have
very many lines for one seed; `batches` are Hypothesis' strategy over them. Values are kept as JSON
text and never as Python values, because the interesting differences (`5`, `5.0`, `"5"`, a key
twice) are lost in Python.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.dataflows.odd_values import (
    ATTRIBUTES,
    BROKEN_VALUES,
    COSTS,
    DATES,
    FRACTIONS,
    NAMES,
    NUMBERS,
    ODD_WHOLES,
    OFFSETS,
    STRINGS,
    TIMES,
    VALUES,
)

Pairs = list[tuple[str, str]]
"""The members of an object: key and value, both as JSON text."""

LAYOUTS = ("plain", "integer time", "unknown fields", "spaced", "sparse", "nulls", "envelope")

TEXT_FIELDS = (
    "idempotency_key",
    "tenant_id",
    "feature_id",
    "provider",
    "model",
    "model_version",
    "region",
    "service_tier",
)
INTEGER_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "latency_ms",
    "retry_count",
)
CHOICES = {
    "cache_status": ("miss", "hit"),
    "status": ("success", "error", "validation_failed"),
    "usage_source": ("provider", "tokenizer", "estimate"),
}
REQUIRED = ("idempotency_key", "tenant_id", "model", "timestamp", "input_tokens", "output_tokens")
OPTIONAL = tuple(
    name
    for name in (*TEXT_FIELDS, *INTEGER_FIELDS, *CHOICES, "provider_cost", "attributes")
    if name not in REQUIRED
)
FIELDS = (*REQUIRED, *OPTIONAL)
CARRIED = {"idempotency_key": "id", "tenant_id": "subject", "timestamp": "time"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A line before it is written: members, what stands between them, and an envelope's data if it is one."""

    pairs: Pairs
    comma: str = ","
    colon: str = ":"
    data: Pairs | None = None
    head: str = ""
    tail: str = ""

    def encode(self) -> bytes:
        pairs = self.pairs if self.data is None else [*self.pairs, ('"data"', self._object(self.data))]
        return (self.head + self._object(pairs) + self.tail).encode("utf-8", "surrogatepass")

    def _object(self, pairs: Pairs) -> str:
        return "{" + self.comma.join(f"{key}{self.colon}{value}" for key, value in pairs) + "}"


def good_line(rng: random.Random, layout: str) -> bytes:
    """A valid event. Lines of one layout look alike, as lines of one producer do."""
    return _good_draft(rng, layout).encode()


def odd_line(rng: random.Random, layout: str) -> bytes:
    """A valid event after one to three mishaps; it may be valid still, or not even text."""
    draft = _good_draft(rng, layout)
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        draft = rng.choice(MISHAPS)(rng, draft)
    line = draft.encode()
    return _damaged(rng, line) if rng.random() < 0.15 else line


def _good_draft(rng: random.Random, layout: str) -> Draft:
    names = list(REQUIRED)
    if layout != "sparse":
        names += [name for name in OPTIONAL if name != "attributes" and rng.random() < 0.4]
        if rng.random() < 0.3:
            names.append("attributes")
    pairs = [(f'"{name}"', _good_value(rng, name, layout)) for name in names]
    if layout == "unknown fields":
        pairs += [('"trace"', f'"{rng.getrandbits(32):x}"'), ('"n"', "7"), ('"f"', "0.5"), ('"b"', "true")]
    if layout == "nulls":
        pairs += [(f'"{name}"', "null") for name in OPTIONAL if name not in names and rng.random() < 0.5]
    rng.shuffle(pairs)
    if layout == "envelope":
        outer = [(f'"{CARRIED[key[1:-1]]}"', value) for key, value in pairs if key[1:-1] in CARRIED]
        inner = [(key, value) for key, value in pairs if key[1:-1] not in CARRIED]
        return Draft(
            [('"specversion"', '"1.0"'), ('"source"', '"/a"'), ('"type"', '"t"'), *outer], data=inner
        )
    if layout == "spaced":
        return Draft(pairs, ", ", ": ")
    return Draft(pairs)


def _good_value(rng: random.Random, name: str, layout: str) -> str:
    if name == "timestamp":
        if layout == "integer time":
            return str(rng.randrange(1_760_000_000_000, 1_780_000_000_000))
        day, hour, minute, second = (
            rng.randint(1, 28),
            rng.randint(0, 23),
            rng.randint(0, 59),
            rng.randint(0, 59),
        )
        end = rng.choice(("", ".5", ".123", ".123456789")) + rng.choice(("Z", "+01:00", "-08:00"))
        return f'"2026-02-{day:02}T{hour:02}:{minute:02}:{second:02}{end}"'
    if name in CHOICES:
        return f'"{rng.choice(CHOICES[name])}"'
    if name in INTEGER_FIELDS:
        parts = name.startswith(("cache", "reasoning"))
        return str(
            0
            if name == "cache_write_1h_tokens"
            else rng.randrange(50)
            if parts
            else 100 + rng.randrange(4000)
        )
    if name == "provider_cost":
        return f'"{rng.randrange(10)}.{rng.getrandbits(30)}"'
    if name == "attributes":
        return rng.choice(("{}", '{"team":"x"}', f'{{"user":"u{rng.randrange(99)}","team":"search"}}'))
    return f'"{name[:3]}-{rng.getrandbits(40):x}"'


def _value(rng: random.Random, name: str) -> str:
    """Any value for this field, bad ones more often than good ones."""
    dice = rng.random()
    if dice < 0.05:
        return rng.choice(BROKEN_VALUES)
    if dice < 0.25 or name in INTEGER_FIELDS:
        return rng.choice(NUMBERS if rng.random() < 0.5 else VALUES)
    if name == "attributes":
        return rng.choice(ATTRIBUTES)
    if name == "provider_cost":
        return rng.choice(COSTS)
    if name in ("timestamp", "time") and dice < 0.8:
        offset = rng.choice(OFFSETS)
        return (
            f'"{rng.choice(DATES)}{rng.choice("TTTTt ")}{rng.choice(TIMES)}{rng.choice(FRACTIONS)}{offset}"'
        )
    return rng.choice(VALUES if dice < 0.4 else STRINGS)


def _in_part(rng: random.Random, draft: Draft, change: Callable[[Pairs], Pairs]) -> Draft:
    if draft.data is not None and rng.random() < 0.7:
        return replace(draft, data=change(list(draft.data)))
    return replace(draft, pairs=change(list(draft.pairs)))


def _other_value(rng: random.Random, draft: Draft) -> Draft:
    def change(pairs: Pairs) -> Pairs:
        if rng.random() < 0.5:
            name = rng.choice((*FIELDS, "attributes", "provider_cost"))
            pairs = [(key, value) for key, value in pairs if key != f'"{name}"']
            return [*pairs, (f'"{name}"', _value(rng, name))]
        if pairs:
            place = rng.randrange(len(pairs))
            key = pairs[place][0]
            pairs[place] = (key, _value(rng, key[1:-1]))
        return pairs

    return _in_part(rng, draft, change)


def _added(rng: random.Random, draft: Draft) -> Draft:
    name = rng.choice(NAMES if rng.random() < 0.8 else FIELDS)
    value = rng.choice(VALUES if rng.random() < 0.9 else BROKEN_VALUES)
    place = rng.randrange(9)
    return _in_part(rng, draft, lambda pairs: [*pairs[:place], (f'"{name}"', value), *pairs[place:]])


def _removed(rng: random.Random, draft: Draft) -> Draft:
    return _in_part(rng, draft, lambda pairs: rng.sample(pairs, max(len(pairs) - rng.choice((1, 1, 2)), 0)))


def _twice(rng: random.Random, draft: Draft) -> Draft:
    def change(pairs: Pairs) -> Pairs:
        if not pairs:
            return pairs
        key, value = rng.choice(pairs)
        if rng.random() < 0.3 and len(key) > 2:
            key = f'"\\u{ord(key[1]):04x}{key[2:]}'
        again = rng.choice((value, "null", _value(rng, key[1:-1])))
        return [*pairs, (key, again)] if rng.random() < 0.5 else [(key, again), *pairs]

    return _in_part(rng, draft, change)


def _spaced(rng: random.Random, draft: Draft) -> Draft:
    blank = rng.choice((" ", "  ", "\t", "\r", "\x0b", "\xa0"))
    return rng.choice(
        (
            replace(draft, comma=blank + ","),
            replace(draft, comma="," + blank),
            replace(draft, colon=blank + ":"),
            replace(draft, colon=":" + blank),
            replace(draft, head=blank),
            replace(draft, tail=blank),
            _in_part(rng, draft, lambda pairs: [(key + blank, value) for key, value in pairs]),
            _in_part(rng, draft, lambda pairs: [(key, blank + value + blank) for key, value in pairs]),
            _in_part(rng, draft, lambda pairs: [*pairs[:-1], *((k + blank, v) for k, v in pairs[-1:])]),
        )
    )


def _surrounded(rng: random.Random, draft: Draft) -> Draft:
    head = rng.choice(("", "", "\ufeff", "\ufeff\ufeff", "[", "{", "x", '{"a":1}', '"', "null", "\x00"))
    tail = rng.choice(
        ("", "}", "]", ",", "x}", "{}", " {}", '{"a":"b"}', ',{"a":"b"}', '"', "\x00", "\x1a", "]}")
    )
    return replace(draft, head=head, tail=tail)


def _other_shape(rng: random.Random, draft: Draft) -> Draft:
    """An envelope with something wrong about it, or an event that becomes an envelope or stops being one."""
    if draft.data is None:
        version = rng.choice(('"1.0"', '"1.0"', '"0.3"', '"1"', "1.0", "null"))
        if rng.random() < 0.5:
            return replace(draft, pairs=[*draft.pairs, ('"specversion"', version)])
        return replace(
            draft, pairs=[('"specversion"', version), ('"id"', '"k"'), ('"time"', "5")], data=draft.pairs
        )
    choice = rng.randrange(5)
    if choice == 0:
        return replace(draft, pairs=[*draft.pairs, ('"data"', rng.choice(VALUES))], data=None)
    if choice == 1:
        return replace(draft, pairs=[*draft.pairs, *draft.data], data=None)
    if choice == 2:
        carried = rng.choice(tuple(CARRIED))
        return replace(draft, data=[*draft.data, (f'"{carried}"', _value(rng, carried))])
    name = rng.choice(
        ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
    )
    return replace(
        draft,
        pairs=[*(pair for pair in draft.pairs if pair[0] != f'"{name}"'), (f'"{name}"', _value(rng, name))],
    )


MISHAPS: tuple[Callable[[random.Random, Draft], Draft], ...] = (
    _other_value,
    _other_value,
    _other_value,
    _added,
    _removed,
    _twice,
    _spaced,
    _surrounded,
    _other_shape,
)


def _damaged(rng: random.Random, line: bytes) -> bytes:
    """The line with some bytes lost, added, changed, swapped or repeated."""
    damaged = bytearray(line)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(damaged) + 1)
        stop = min(start + rng.choice((1, 1, 2, 8)), len(damaged))
        dice = rng.randrange(6)
        if dice == 0:
            del damaged[start:stop]
        elif dice == 1:
            damaged[start:start] = bytes([rng.choice(b'{}[]",: \\tn0159-.eE\x00\x7f\xc3\xff\xed\xef')])
        elif dice == 2:
            damaged[start:stop] = bytes([rng.randrange(256)])
        elif dice == 3:
            damaged[start:start] = damaged[start:stop]
        elif dice == 4:
            damaged[start:stop] = damaged[start:stop][::-1]
        else:
            other = rng.randrange(len(damaged) + 1)
            damaged[start:stop] = damaged[other : other + stop - start]
    return bytes(damaged).replace(b"\n", b" ")


def odd_whole(rng: random.Random, layout: str) -> bytes:
    """A line that is no event at all, or very long."""
    if rng.random() < 0.02:
        filler = rng.choice((b"x", b" ", b"[", b'",":', b"\\", b"\xff")) * rng.choice((5000, 1_000_000))
        return b'{"x":"' + filler + b'",' + good_line(rng, layout)[1:]
    return rng.choice(ODD_WHOLES)


def mixed_lines(rng: random.Random, layout: str, size: int) -> list[bytes]:
    """Lines of one producer, with mishaps among them: every odd line or object of every kind there is."""
    oddness = rng.choice((0.0, 0.1, 0.5, 0.9))
    lines = [good_line(rng, layout)]
    while len(lines) < size:
        dice = rng.random()
        if dice >= oddness:
            lines.append(good_line(rng, layout if rng.random() < 0.98 else rng.choice(LAYOUTS)))
        elif dice < oddness * 0.06:
            lines.append(odd_whole(rng, layout))
        elif dice < oddness * 0.08:
            whole = odd_line(rng, layout)
            cut = rng.randrange(len(whole) + 1)
            lines += [whole[:cut], whole[cut:]]
        else:
            lines.append(odd_line(rng, layout))
    if rng.random() < 0.3:
        lines[0] = odd_line(rng, layout)
    ending = b"\r" if rng.random() < 0.1 else b""
    return [line.replace(b"\n", b" ") + ending for line in lines]


@st.composite
def batches(draw: st.DrawFn, min_size: int = 60, max_size: int = 120) -> list[bytes]:
    """The lines of one poll, each without its newline."""
    size = draw(st.integers(min_size, max_size))
    layout = draw(st.sampled_from(LAYOUTS))
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    lines = mixed_lines(rng, layout, size)
    for odd in draw(st.lists(json_objects() | st.binary(max_size=40), max_size=3)):
        lines[draw(st.integers(0, len(lines) - 1))] = odd.replace(b"\n", b" ")
    return lines


def json_objects() -> st.SearchStrategy[bytes]:
    """Objects over the contract's field names with any values, written as Python writes JSON."""
    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["5", "{}"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    names = st.sampled_from([*FIELDS, "specversion", "data", "x"])
    required = dict.fromkeys(REQUIRED, values)
    return st.tuples(
        st.fixed_dictionaries({}, optional=required),
        st.dictionaries(names, values, max_size=4),
        st.booleans(),
    ).map(
        lambda drawn: json.dumps({**drawn[0], **drawn[1]}, ensure_ascii=drawn[2]).encode(
            "utf-8", "surrogatepass"
        )
    )
