"""Quarantined lines as a file that a person can repair: a JSON object a line, with its position and bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataflows.connections import PlanError
from dataflows.requeue import PAGE_ROWS, POSITION, Requeued
from metering.event import QuarantineReason


class ExportedLine(BaseModel):
    """One quarantined line. `raw` is its text; `raw_base64` its bytes where they are not UTF-8."""

    model_config = ConfigDict(strict=True)

    source: str
    source_partition: int = Field(ge=0, lt=1 << 32)
    source_offset: int = Field(ge=0, lt=1 << 64)
    source_line: int = Field(ge=0, lt=1 << 32)
    raw: str | None = None
    raw_base64: str | None = None

    @model_validator(mode="after")
    def _has_bytes(self) -> ExportedLine:
        if (self.raw is None) == (self.raw_base64 is None):
            raise ValueError("either raw or raw_base64")
        return self

    def row(self) -> dict[str, Any]:
        """A row for `requeue`. A line end inside JSON is white space, and would end the line in its file."""
        if self.raw is not None:
            raw = self.raw.encode()
        else:
            raw = base64.b64decode(self.raw_base64 or "", validate=True)
        return {**{name: getattr(self, name) for name in POSITION}, "raw": raw.replace(b"\n", b" ")}


def export_lines(pages: Iterable[pl.DataFrame], path: Path) -> int:
    """Write lines for repair; returns how many.

    Raises:
        PlanError: the file is there already, or cannot be written.
    """
    count = 0
    try:
        with path.open("x", encoding="utf-8") as file:
            for page in pages:
                for row in page.iter_rows(named=True):
                    raw = row.pop("raw")
                    try:
                        row["raw"] = raw.decode()
                    except UnicodeDecodeError:
                        row["raw_base64"] = base64.b64encode(raw).decode()
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += len(page)
    except OSError as exc:
        raise PlanError(f"the export cannot be written to {path}: {exc.strerror}") from None
    return count


_SCHEMA = {
    "source": pl.String,
    "source_partition": pl.UInt32,
    "source_offset": pl.UInt64,
    "source_line": pl.UInt32,
    "raw": pl.Binary,
}


def read_repaired(path: Path) -> Iterator[pl.DataFrame]:
    """An export, repaired, in pages. All is read before the first page comes, so that a mistake stops all.

    Positions are held meanwhile, a few hundred bytes for each line.

    Raises:
        PlanError: the file cannot be read, a line of it is not one that was exported, or stands there twice.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(_repaired_rows(path), 1):
        position = tuple(row[name] for name in POSITION)
        if position in seen:
            raise PlanError(
                f"event {number} of {path} is the same quarantined line as event {seen[position]}: "
                "leave one of them"
            )
        seen[position] = number
    page: list[dict[str, Any]] = []
    for row in _repaired_rows(path):
        page.append(row)
        if len(page) == PAGE_ROWS:
            yield pl.DataFrame(page, schema=_SCHEMA)
            page = []
    if page:
        yield pl.DataFrame(page, schema=_SCHEMA)


def _repaired_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield ExportedLine.model_validate_json(line).row()
                except ValidationError as exc:
                    first = exc.errors(include_url=False, include_input=False)[0]
                    where = ".".join(map(str, first["loc"])) or "the line"
                    raise PlanError(f"line {number} of {path}: {where}: {first['msg']}") from None
                except ValueError:
                    raise PlanError(f"line {number} of {path}: raw_base64 is not base64") from None
    except OSError as exc:
        raise PlanError(f"the file {path} cannot be read: {exc.strerror}") from None


def describe(done: Requeued, begun: int) -> Iterator[str]:
    """What a requeue did, line by line."""
    if begun:
        yield f"{begun} begun earlier and finished now"
    yield f"{done.looked_at} looked at"
    yield f"{done.put_through} put through the job"
    if done.priced_meanwhile:
        yield f"{done.priced_meanwhile} resolved: the same key was priced meanwhile"
    if done.not_waiting:
        yield f"{done.not_waiting} do not wait in quarantine (any more)"
    for reason, count in sorted(done.still_refused.items()):
        yield f"{count} stay in quarantine: {reason}"
    if QuarantineReason.IDEMPOTENCY_CONFLICT.value in done.still_refused:
        yield "what was priced under a key in conflict has other content: --export, and give it another key"
