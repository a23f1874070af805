"""`python -m metering.tokenizers DIRECTORY`: fills a directory with what exact counting needs.

For building an image: run it where the network is, and set `METERLINE_TOKENIZER_DIR=DIRECTORY` where the
application runs. What is on this machine already (see `vocabulary.py`) is copied; the rest is fetched by
tiktoken's own loader, which checks what it got. The directory is one that `TIKTOKEN_CACHE_DIR` understands
too.

Exit code 0: all are there; 1: one of them is not; 2: called wrongly.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metering.model_tokens import ENCODINGS
from metering.vocabulary import VocabularyMissing, find, wanted

FETCH_SECONDS_MAX = 120
"""tiktoken's loader waits for ever; a build should not. The largest file has 3.6 MB."""


def fill(directory: Path, environ: Mapping[str, str], fetch: Callable[[str], str]) -> list[str]:
    """Put every vocabulary into the directory.

    Args:
        directory: Made where it is missing. Files of the right content are left as they are.
        environ: Where to look first.
        fetch: Puts the vocabulary of a named encoding into the directory, or says in a few words why not.

    Returns:
        A sentence for each vocabulary that is not there in the end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = []
    for name in ENCODINGS:
        try:
            found = find(name, {**environ, "METERLINE_TOKENIZER_DIR": str(directory)})
        except VocabularyMissing as exc:
            problem = fetch(name)
            if problem:
                missing.append(
                    f"{exc}, and it could not be fetched ({problem}): run this where the network is, "
                    "or install meterline[tokens], which brings it along."
                )
            continue
        path = directory / found.file_name
        if not path.exists() or path.read_bytes() != found.data:
            partial = path.with_suffix(".partial")
            partial.write_bytes(found.data)
            partial.replace(path)
    return missing


def fetch_into(directory: Path) -> Callable[[str], str]:
    """A `fetch` that lets tiktoken download, with its cache of this process set to the directory."""

    def fetch(name: str) -> str:
        from tiktoken.load import read_file_cached  # noqa: PLC0415  # only where something is to be fetched

        os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
        problems = [f"no answer within {FETCH_SECONDS_MAX} seconds"]

        def run() -> None:
            try:
                read_file_cached(wanted(name).url, wanted(name).sha256)
            except Exception as exc:  # noqa: BLE001  # requests' many errors, a full disk, a wrong hash
                problems[:] = [type(exc).__name__]
            else:
                problems.clear()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(FETCH_SECONDS_MAX)
        return problems[0] if problems else ""

    return fetch


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m metering.tokenizers DIRECTORY\n")
        return 2
    directory = Path(arguments[0])
    try:
        missing = fill(directory, os.environ, fetch_into(directory))
    except OSError as exc:
        sys.stderr.write(f"{directory} cannot be filled: {exc.strerror or exc}.\n")
        return 1
    for sentence in missing:
        sys.stderr.write(sentence[0].upper() + sentence[1:] + "\n")
    if not missing:
        sys.stdout.write(f"{', '.join(ENCODINGS)} are in {directory}: set METERLINE_TOKENIZER_DIR to it.\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
