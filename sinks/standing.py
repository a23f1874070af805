"""Whether a staged block stands in ClickHouse, asked where its token alone cannot tell.

A MergeTree table writes a part's token into its deduplication log and then gives the part its name. Killed
between the two, it comes back knowing the token without having the rows, and drops the block each time it
is sent again (seen in ClickHouse 26.9, with `strace -f -P TABLE/tmp_insert_all_1_1_0/ -e trace=rename
-e inject=rename:signal=KILL`). So whoever repeats an insert looks for the rows as well. A part stands whole
or not at all: one row of each, its witness, tells for all.

Tokens are still needed, for an insert that is on its way while it is repeated. A table remembers its last
10,000 parts, and a block makes one for each day that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

_POSITION = {
    "source": "String",
    "source_partition": "UInt32",
    "source_offset": "UInt64",
    "source_line": "UInt32",
    "received_at": "DateTime64(3, 'UTC')",
}
_WHOLE = pl.lit(0)


@dataclass(frozen=True, slots=True)
class _Witness:
    """How to know a row of this very block, and which rows of the block share a part.

    `columns`, with their types, tell it from a row that an earlier run wrote for the same event: that one
    has another time of arrival. Alerts have none, so each of their rows is asked for by itself.
    """

    columns: Mapping[str, str]
    part: pl.Expr = _WHOLE


_WITNESSES = {
    "priced_events": _Witness(
        {
            "tenant_id": "String",
            "timestamp": "DateTime64(3, 'UTC')",
            "idempotency_key": "String",
            "ingested_at": "DateTime64(3, 'UTC')",
        },
        pl.col("timestamp").dt.date(),
    ),
    "duplicates": _Witness(_POSITION),
    "quarantine_log": _Witness(_POSITION),
    "spend_sums": _Witness(
        {
            "tenant_id": "String",
            "feature_id": "String",
            "window_kind": "String",
            "window_start": "DateTime64(3, 'UTC')",
            "updated_at": "DateTime64(3, 'UTC')",
            "generation": "UInt32",
        }
    ),
    "cap_alert_log": _Witness({"alert_id": "String"}, pl.col("alert_id")),
    "cap_alert_deliveries": _Witness({"alert_id": "String"}, pl.col("alert_id")),
    "source_progress": _Witness(
        {
            "source": "String",
            "source_partition": "UInt32",
            "next_offset": "UInt64",
            "updated_at": "DateTime64(3, 'UTC')",
        }
    ),
}


def missing_rows(client: Client, table: str, block: pl.DataFrame) -> pl.DataFrame:
    """The rows of a block whose part does not stand, found with one query a part.

    A witness that a later row of its identity has replaced counts as missing, and its part goes in again. For
    most tables the later version prevails all the same; in `priced_events` the copy that replaced it, whose
    amounts are the same, is replaced in turn.

    Raises:
        ClickHouseError, OSError: as any query.
    """
    witness = _WITNESSES[table]
    parts = block.with_columns(_part=witness.part)
    witnesses = parts.unique("_part", keep="first", maintain_order=True)
    lost = [
        row["_part"]
        for row in witnesses.iter_rows(named=True)
        if not _stands(client, table, witness.columns, row)
    ]
    return parts.filter(pl.col("_part").is_in(lost)).drop("_part")


def _stands(client: Client, table: str, columns: Mapping[str, str], row: Mapping[str, Any]) -> bool:
    condition = " AND ".join(f"{name} = {{{name}:{kind}}}" for name, kind in columns.items())
    parameters = dict(_parameters(columns, row))
    query = f"SELECT count() FROM {table} WHERE {condition}"  # noqa: S608  # names of ours, values are bound
    found = client.query(query, parameters=parameters)
    return bool(found.result_rows[0][0])


def _parameters(columns: Mapping[str, str], row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in columns:
        value = row[name]
        # As text with its milliseconds: a parameter that is a datetime loses them on its way.
        yield name, f"{value:%Y-%m-%d %H:%M:%S.%f}"[:-3] if isinstance(value, datetime) else value
