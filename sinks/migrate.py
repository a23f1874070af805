"""Numbered SQL files to tables and views, each applied once.

A crash in the middle of a file leaves it unrecorded; every statement can be run again, so the next
call finishes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from clickhouse_connect.driver.client import Client

_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number     UInt32,
    name       String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY number
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sinks/migrations`: `0001_tables.sql`."""

    number: int
    name: str
    statements: tuple[str, ...]


def migrations() -> tuple[Migration, ...]:
    """All migrations, in order."""
    found = []
    for file in files("sinks").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            statements = tuple(_statements(file.read_text(encoding="utf-8")))
            found.append(Migration(int(match[1]), match[2], statements))
    return tuple(sorted(found, key=lambda migration: migration.number))


def _statements(sql: str) -> Iterator[str]:
    """Statements of a file: a semicolon at the end of a line ends one."""
    for part in re.split(r";[ \t]*(?:\n|$)", sql):
        body = "\n".join(line for line in part.splitlines() if not line.lstrip().startswith("--"))
        if body.strip():
            yield body.strip()


def migrate(client: Client) -> tuple[Migration, ...]:
    """Apply what is missing; returns what was applied."""
    client.command(_LEDGER)
    done = {row[0] for row in client.query("SELECT number FROM schema_migrations").result_rows}
    applied = []
    for migration in migrations():
        if migration.number in done:
            continue
        for statement in migration.statements:
            client.command(statement)
        client.command(
            "INSERT INTO schema_migrations (number, name) VALUES ({number:UInt32}, {name:String})",
            parameters={"number": migration.number, "name": migration.name},
        )
        applied.append(migration)
    return tuple(applied)
