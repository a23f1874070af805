"""Priced events made by ClickHouse from a number: the same ones everywhere, and their sums without a table.

90 days. 2,000 tenants, of which the largest has 15 % of the events and the smallest about one in eight
thousand. The twenty largest use 20 features and 12 models, the others one to six and one to five, of 40
models of 5 providers. One event in a thousand comes up to two days late. Keys are UUIDs, amounts are whole
multiples of 10^-12 USD, and some tenants pay less than they cost.
"""

from __future__ import annotations

DAYS = 90
TENANTS = 2_000

_FIGURES = """
WITH
    {total} AS total,
    cityHash64(number, 1) AS who,
    cityHash64(number, 2) AS what,
    cityHash64(number, 3) AS how,
    cityHash64(number, 4) AS much,
    toUInt32(floor({tenants} * pow((who % 1000000) / 1000000, 4))) AS tenant,
    if(tenant < 20, 20, 1 + intHash32(tenant) % 6) AS features,
    if(tenant < 20, 12, 1 + intHash32(tenant + 5000) % 5) AS models,
    (tenant * 7 + what % features) % 20 AS feature,
    (tenant * 11 + intDiv(what, 1000) % models) % 40 AS model_number,
    1767225600000 + intDiv(number * {days} * 86400000, total) AS arrived_ms,
    if(how % 1000 = 0, intDiv(how, 1000) % 172800000, intDiv(how, 1000) % 60000) AS age_ms,
    toUInt64(50 + much % 4000) AS input_n,
    toUInt64(1 + intDiv(much, 4000) % 800) AS output_n,
    if(intDiv(much, 3200000) % 3 = 0, intDiv(input_n, 2), 0) AS cached_n,
    toUInt64(what % 97 != 0) AS billable_n,
    95 + (tenant * 13) % 60 AS percent,
    (input_n * (100 + model_number * 37) + output_n * (400 + model_number * 150)) * 1000 AS cost_n,
    intDiv(cost_n * percent, 100) * billable_n AS price_n
"""

_COLUMNS = """
    concat('tenant-', leftPad(toString(tenant), 4, '0')) AS tenant_id,
    toString(reinterpret(sipHash128(number), 'UUID')) AS idempotency_key,
    fromUnixTimestamp64Milli(toInt64(arrived_ms - age_ms), 'UTC') AS timestamp,
    concat('feature-', toString(feature)) AS feature_id,
    concat('provider-', toString(model_number % 5)) AS provider,
    concat('model-', toString(model_number)) AS model,
    if(model_number % 3 = 0, '2026-01-01', '') AS model_version,
    '' AS region,
    '' AS service_tier,
    input_n AS input_tokens,
    output_n AS output_tokens,
    cached_n AS cache_read_tokens,
    toUInt64(0) AS cache_write_tokens,
    toUInt64(0) AS cache_write_1h_tokens,
    intDiv(output_n, 4) * (model_number % 2) AS reasoning_tokens,
    200 + how % 9000 AS latency_ms,
    toUInt64(how % 50 = 0) AS retry_count,
    'miss' AS cache_status,
    if(billable_n = 1, 'success', 'error') AS status,
    'provider' AS usage_source,
    CAST(NULL AS Nullable(Decimal(38, 12))) AS provider_cost,
    '{}' AS attributes,
    billable_n = 1 AS billable,
    CAST((input_n + output_n) * (1 + model_number % 4), 'Decimal(38, 12)') AS credits,
    CAST(cost_n, 'Decimal(38, 0)') * toDecimal128('0.000000000001', 12) AS cost,
    CAST(price_n, 'Decimal(38, 0)') * toDecimal128('0.000000000001', 12) AS price,
    CAST(percent, 'Decimal(38, 12)') / 100 AS multiplier,
    '2026-01-01' AS rate_card_version,
    false AS late,
    'ai-metering-events' AS source,
    toUInt32(who % 8) AS source_partition,
    intDiv(number, 8) AS source_offset,
    toUInt32(0) AS source_line,
    fromUnixTimestamp64Milli(toInt64(arrived_ms + 1500), 'UTC') AS ingested_at
"""


def rows_sql(total: int, begin: int, end: int) -> str:
    """Rows of `priced_events`, in the order of its columns, without `rating`: events `[begin, end)`."""
    return f"{_figures(total)} SELECT {_COLUMNS} FROM numbers({begin}, {end - begin})"  # noqa: S608  # constants and numbers


def sums_sql(total: int) -> str:
    """Events, input tokens, cost and price of all `total` events, in 10^-12 USD, from whole numbers alone."""
    sums = "count(), sum(input_n), sum(toUInt128(cost_n)), sum(toUInt128(price_n))"
    return f"{_figures(total)} SELECT {sums} FROM numbers({total})"  # noqa: S608  # as above


def _figures(total: int) -> str:
    return _FIGURES.format(total=total, tenants=TENANTS, days=DAYS)
