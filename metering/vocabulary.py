"""tiktoken's encodings from data that is already on this machine. Nothing is fetched, and nothing is changed.

tiktoken ships no vocabularies: by itself it downloads them at first use, in the middle of a request, and
where the network is closed that request fails. So they are looked for here, in this order:

1. what this process has loaded already, through tiktoken too
2. the directory `METERLINE_TOKENIZER_DIR`, then `TIKTOKEN_CACHE_DIR` and `DATA_GYM_CACHE_DIR`, then
   tiktoken's default cache; the file's name is, as tiktoken has it, the SHA-1 of the address that it would be
   fetched from
3. packages that ship them: `litellm`, where the application has it anyway, and `quicktok-v1` (the extra
   `tokens`). Their data is read, their code is not imported.

Whatever the place, the content must have the SHA-256 that tiktoken expects; else it is passed over.
Addresses, hashes and the patterns that cut a text into words are tiktoken's own: its constructors run with a
loader that finds files instead of fetching them.

Loading `o200k_base` takes about half a second of one core once a process, and some 90 MB, most of it in
Python's dictionary of 200,000 entries; `cl100k_base` half of both.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding

FILE_BYTES_MAX = 16 * 1024 * 1024
"""A larger file is no vocabulary; o200k_base, the largest, has 3.6 MB."""

DIRECTORY_VARIABLES = ("METERLINE_TOKENIZER_DIR", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
_PACKED_BY_TIKTOKEN_NAME = (("litellm", "litellm/litellm_core_utils/tokenizers"),)
_QUICKTOK_FILES = {"o200k_base": "quicktok/data/o200k.vocab", "cl100k_base": "quicktok/data/cl100k.vocab"}


# What this process has loaded, by name: at most the encodings that are asked for, shared by all counters.
_loaded: dict[str, tuple[Encoding, str]] = {}


class VocabularyMissing(LookupError):
    """No usable copy of an encoding's vocabulary is on this machine."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary in tiktoken's format (token in base64, space, rank, newline) and where it was found."""

    data: bytes
    file_name: str
    source: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What tiktoken would fetch: an address and the SHA-256 of what it expects there."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()

    def fits(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.sha256


def load(name: str, environ: Mapping[str, str]) -> tuple[Encoding, str]:
    """An encoding, and where its vocabulary was found.

    Args:
        name: As tiktoken has it: `o200k_base`, `cl100k_base`.
        environ: The process's environment variables.

    Raises:
        VocabularyMissing: nothing usable is here.
    """
    from tiktoken import Encoding, registry  # noqa: PLC0415  # 50 ms that an application may never need

    if name in _loaded:
        return _loaded[name]
    by_tiktoken = registry.ENCODINGS.get(name)
    if by_tiktoken is not None:
        return by_tiktoken, "this process"
    found: list[Vocabulary] = []

    def find_ranks(url: str, expected_hash: str) -> dict[bytes, int]:
        found.append(_find(name, _Wanted(url, expected_hash), environ))
        return _ranks(found[0].data)

    _loaded[name] = Encoding(**_constructed(name, find_ranks)), found[0].source
    return _loaded[name]


def find(name: str, environ: Mapping[str, str]) -> Vocabulary:
    """The vocabulary of an encoding, as a file that tiktoken would take.

    Raises:
        VocabularyMissing: nothing usable is here.
    """
    return _find(name, wanted(name), environ)


def wanted(name: str) -> _Wanted:
    """Address and hash of an encoding's vocabulary, as the installed tiktoken has them."""
    asked: list[_Wanted] = []

    def note(url: str, expected_hash: str) -> dict[bytes, int]:
        asked.append(_Wanted(url, expected_hash))
        return {}

    _constructed(name, note)
    return asked[0]


def _constructed(name: str, loader: Callable[[str, str], dict[bytes, int]]) -> dict[str, Any]:
    """The arguments of an encoding, from tiktoken's own constructor with another loader of vocabularies.

    Its global name is replaced in a copy of the function, so that the application's own use of tiktoken, in
    other threads, stays as it is.
    """
    from tiktoken_ext import openai_public  # noqa: PLC0415  # with tiktoken

    own = openai_public.ENCODING_CONSTRUCTORS[name]
    copied = FunctionType(own.__code__, {**own.__globals__, "load_tiktoken_bpe": loader})
    arguments = copied()
    assert isinstance(arguments, dict)
    return arguments


def _find(name: str, want: _Wanted, environ: Mapping[str, str]) -> Vocabulary:
    damaged = []
    for source, read in _places(name, want.file_name, environ):
        try:
            data = read()
        except (OSError, ValueError):
            continue
        if want.fits(data):
            return Vocabulary(data, want.file_name, source)
        damaged.append(source)
    raise VocabularyMissing(
        f"the vocabulary of {name} is not on this machine"
        + (f"; what {' and '.join(damaged)} holds is not what tiktoken expects" if damaged else "")
    )


def _places(
    name: str, file_name: str, environ: Mapping[str, str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    directories = [
        (variable, Path(environ[variable])) for variable in DIRECTORY_VARIABLES if environ.get(variable)
    ]
    directories.append(("tiktoken's cache", Path(tempfile.gettempdir(), "data-gym-cache")))
    for package, folder in _PACKED_BY_TIKTOKEN_NAME:
        path = _packed(package, folder)
        if path is not None:
            directories.append((f"the package {package}", path))
    for source, directory in directories:
        yield source, partial(_read, directory / file_name)
    path = _packed("quicktok-v1", _QUICKTOK_FILES.get(name, ""))
    if path is not None:
        yield "the package quicktok-v1", partial(_read_quicktok, path)


def _packed(package: str, inside: str) -> Path | None:
    """A path within an installed package, found without importing it."""
    if not inside:
        return None
    try:
        return Path(str(metadata.distribution(package).locate_file(inside)))
    except metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> bytes:
    if not path.is_file():  # a pipe of that name, in a directory that others can write to, would never end
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{path} is too large for a vocabulary")
    return data


def _ranks(data: bytes) -> dict[bytes, int]:
    ranks = {}
    for line in data.splitlines():
        token, _, rank = line.partition(b" ")
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _read_quicktok(path: Path) -> bytes:
    """A file of quicktok's as tiktoken has it; wrong input comes out as something that the hash refuses.

    A count, then for each token its length (16 bits), its bytes and its rank (32 bits), all little-endian: as
    quicktok-v1 0.4.0 has it.
    """
    data = _read(path)
    lines = []
    at = 4
    for _ in range(int.from_bytes(data[:4], "little")):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        if end + 4 > len(data):
            raise ValueError("the vocabulary is cut off")
        rank = int.from_bytes(data[end : end + 4], "little")
        lines.append(b"%b %d\n" % (base64.b64encode(data[at + 2 : end]), rank))
        at = end + 4
    return b"".join(lines)
