"""Vocabularies are found on this machine, checked, and never fetched."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import vocabulary
from metering.model_tokens import CL100K, ENCODINGS, O200K
from metering.tokenizers import fill, main
from metering.vocabulary import VocabularyMissing, find, load, wanted
from tests.metering.sample_texts import TEXTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def filled_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both vocabularies, from wherever they are."""
    directory = tmp_path_factory.mktemp("tokenizers")
    missing = fill(directory, os.environ, lambda _: "not fetched in tests")
    if missing:
        pytest.skip(f"no vocabularies here: {missing[0]}")
    return directory


@pytest.fixture
def nothing_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without packages that ship vocabularies, and with an empty cache."""
    monkeypatch.setattr(vocabulary, "_packed", lambda *_: None)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "none"))
    # What a process has loaded stays loaded; this one may have.
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(vocabulary, "_loaded", {})


@pytest.mark.skipif(find_spec("quicktok") is None, reason="the extra `tokens` is not installed")
def test_the_extra_brings_both_vocabularies() -> None:
    assert {find(name, {}).source for name in ENCODINGS} <= {
        "the package quicktok-v1",
        "the package litellm",
        "tiktoken's cache",
    }


@pytest.mark.parametrize("variable", vocabulary.DIRECTORY_VARIABLES)
@pytest.mark.usefixtures("nothing_packed")
def test_a_named_directory_serves(filled_directory: Path, variable: str) -> None:
    encoding, source = load(O200K, {variable: str(filled_directory)})
    assert (encoding.name, source) == (O200K, variable)


@pytest.mark.usefixtures("nothing_packed")
def test_what_is_loaded_is_loaded_once(filled_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, source = load(CL100K, {"TIKTOKEN_CACHE_DIR": str(filled_directory)})
    assert load(CL100K, {}) == (encoding, source)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {O200K: encoding})  # the application's own
    assert load(O200K, {}) == (encoding, "this process")


@pytest.mark.usefixtures("nothing_packed")
def test_our_own_directory_comes_first(filled_directory: Path) -> None:
    places = dict.fromkeys(vocabulary.DIRECTORY_VARIABLES, str(filled_directory))
    assert find(CL100K, places).source == "METERLINE_TOKENIZER_DIR"


@pytest.mark.usefixtures("nothing_packed")
def test_the_package_litellm_serves_where_it_is_installed(
    filled_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        vocabulary, "_packed", lambda package, _: filled_directory if package == "litellm" else None
    )
    assert find(CL100K, {}).source == "the package litellm"


@pytest.mark.usefixtures("nothing_packed")
def test_a_directory_that_lacks_it_is_passed_over(filled_directory: Path, tmp_path: Path) -> None:
    places = {"METERLINE_TOKENIZER_DIR": str(tmp_path), "TIKTOKEN_CACHE_DIR": str(filled_directory)}
    assert find(CL100K, places).source == "TIKTOKEN_CACHE_DIR"


@pytest.mark.usefixtures("nothing_packed")
def test_without_one_it_says_so_and_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(VocabularyMissing, match=r"^the vocabulary of o200k_base is not on this machine$"):
        load(O200K, {})


@pytest.mark.usefixtures("nothing_packed")
def test_a_damaged_file_is_passed_over_and_left_where_it_is(filled_directory: Path, tmp_path: Path) -> None:
    name = wanted(O200K).file_name
    damaged = tmp_path / name
    damaged.write_bytes((filled_directory / name).read_bytes().replace(b" 7\n", b" 8\n"))
    with pytest.raises(VocabularyMissing, match="what TIKTOKEN_CACHE_DIR holds is not what tiktoken expects"):
        load(O200K, {"TIKTOKEN_CACHE_DIR": str(tmp_path)})
    assert damaged.exists()


@pytest.mark.usefixtures("nothing_packed")
@pytest.mark.parametrize("kind", ["pipe", "directory", "too large", "unreadable name"])
def test_what_is_no_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / wanted(O200K).file_name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"x" * 11)
        monkeypatch.setattr(vocabulary, "FILE_BYTES_MAX", 10)
    directory = "\0" if kind == "unreadable name" else str(tmp_path)
    with pytest.raises(VocabularyMissing, match=r"is not on this machine$"):
        load(O200K, {"METERLINE_TOKENIZER_DIR": directory})


@given(st.binary(max_size=200))
def test_no_bytes_make_a_vocabulary_of_quicktok_raise_anything_else(data: bytes) -> None:
    path = Path(os.devnull)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_read", lambda _: data)
        with contextlib.suppress(ValueError, OSError):  # which its caller knows
            vocabulary._read_quicktok(path)  # noqa: SLF001  # it has no public door that takes bytes


# tiktoken itself, on the directory that was filled: in a process of its own, since it keeps what it loads.
BY_TIKTOKEN = """
import json, sys, tiktoken
texts = json.load(sys.stdin)
print(json.dumps({name: [tiktoken.get_encoding(name).encode_ordinary(text) for text in texts]
                  for name in ("o200k_base", "o200k_harmony", "cl100k_base")}))
"""


def test_the_tokens_are_those_of_tiktoken_itself(filled_directory: Path) -> None:
    texts = [*TEXTS.values(), "<|endoftext|> <|fim_prefix|>", "  \n\n\t x", "👩‍🚀🇩🇪"]
    done = subprocess.run(
        [sys.executable, "-c", BY_TIKTOKEN],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(filled_directory)},
    )
    expected = json.loads(done.stdout)
    assert expected["o200k_harmony"] == expected["o200k_base"]
    for name in ENCODINGS:
        encoding, _ = load(name, {"METERLINE_TOKENIZER_DIR": str(filled_directory)})
        assert [encoding.encode_ordinary(text) for text in texts] == expected[name]


# The command


def test_filling_a_filled_directory_changes_nothing(filled_directory: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in filled_directory.iterdir()}
    assert fill(filled_directory, {}, lambda _: "not fetched in tests") == []
    assert {path.name: path.stat().st_mtime_ns for path in filled_directory.iterdir()} == before
    assert before.keys() == {wanted(name).file_name for name in ENCODINGS}


def test_filling_mends_what_is_damaged(filled_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / wanted(O200K).file_name
    path.write_bytes(b"half of it")
    assert fill(tmp_path, {"TIKTOKEN_CACHE_DIR": str(filled_directory)}, lambda _: "no") == []
    assert path.read_bytes() == (filled_directory / path.name).read_bytes()


@pytest.mark.usefixtures("nothing_packed")
def test_the_command_says_what_is_missing_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError

    for variable in vocabulary.DIRECTORY_VARIABLES:
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr("tiktoken.load.read_file", no_network)
    assert main([str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"The vocabulary of {name} is not on this machine, and it could not be fetched (ConnectionError): "
        "run this where the network is, or install meterline[tokens], which brings it along."
        for name in ENCODINGS
    ]


@pytest.mark.usefixtures("nothing_packed")
def test_the_command_fetches_what_is_missing(
    filled_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = {wanted(name).url: (filled_directory / wanted(name).file_name).read_bytes() for name in ENCODINGS}
    for variable in vocabulary.DIRECTORY_VARIABLES:
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr("tiktoken.load.read_file", held.__getitem__)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"o200k_base, cl100k_base are in {tmp_path}: set METERLINE_TOKENIZER_DIR to it.\n"
    )
    assert find(O200K, {"METERLINE_TOKENIZER_DIR": str(tmp_path)}).source == "METERLINE_TOKENIZER_DIR"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 2, "usage: python -m metering.tokenizers DIRECTORY\n"),
        (["--help"], 2, "usage: python -m metering.tokenizers DIRECTORY\n"),
        (["/dev/null/x"], 1, "/dev/null/x cannot be filled: Not a directory.\n"),
    ],
)
def test_the_command_called_wrongly(
    arguments: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert capsys.readouterr().err == expected
