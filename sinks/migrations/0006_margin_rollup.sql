DROP TABLE IF EXISTS priced_events_by_month;

-- 0002 says why FINAL; partitions are days now.
CREATE OR REPLACE VIEW usage AS
SELECT *
FROM priced_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Sums of one part of priced_events. A part of a table never changes, and its name is not used again while the table
-- has rows (who empties the table must empty this one with it), so such sums cannot become wrong; they are only of no more use once a merge, an insert or a delete has put other parts
-- in its place. `built_at` tells one build from another: a build that a crash cut short stays short.
CREATE TABLE IF NOT EXISTS margin_rollup
(
    day                   Date,
    part                  LowCardinality(String),
    built_at              DateTime64(6, 'UTC') CODEC(ZSTD(1)),
    tenant_id             String,
    feature_id            LowCardinality(String),
    provider              LowCardinality(String),
    model                 LowCardinality(String),
    model_version         LowCardinality(String),
    requests              UInt64 CODEC(T64, ZSTD(1)),
    billable_requests     UInt64 CODEC(T64, ZSTD(1)),
    input_tokens          UInt64 CODEC(T64, ZSTD(1)),
    output_tokens         UInt64 CODEC(T64, ZSTD(1)),
    cache_read_tokens     UInt64 CODEC(T64, ZSTD(1)),
    cache_write_tokens    UInt64 CODEC(T64, ZSTD(1)),
    cache_write_1h_tokens UInt64 CODEC(T64, ZSTD(1)),
    reasoning_tokens      UInt64 CODEC(T64, ZSTD(1)),
    credits               Decimal(38, 12) CODEC(ZSTD(1)),
    cost                  Decimal(38, 12) CODEC(ZSTD(1)),
    price                 Decimal(38, 12) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(built_at)
PARTITION BY toYYYYMM(day)
ORDER BY (day, tenant_id, feature_id, provider, model, model_version)
SETTINGS non_replicated_deduplication_window = 0;

-- Days that consist of one part. Answered from what ClickHouse knows of its parts, without reading a row.
CREATE OR REPLACE VIEW margin_days_whole AS
SELECT day, any(name) AS part, any(counted) AS events
FROM (SELECT toDate(timestamp) AS day, _part AS name, count() AS counted FROM priced_events GROUP BY day, name)
GROUP BY day
HAVING count() = 1;

-- Builds, and how many events each one sums.
CREATE OR REPLACE VIEW margin_builds AS
SELECT part, built_at, sum(requests) AS events
FROM margin_rollup
GROUP BY part, built_at;

-- Days whose sums may be taken from the rollup: a build of their only part counts every event of it.
-- Within a query ClickHouse takes one snapshot of each table, so all that `margin_daily` reads agrees on the parts;
-- where somebody has switched that off, no day is taken from the rollup.
CREATE OR REPLACE VIEW margin_days_rolled AS
SELECT whole.day AS day, whole.part AS part, max(built.built_at) AS built_at
FROM margin_days_whole AS whole
INNER JOIN margin_builds AS built ON built.part = whole.part AND built.events = whole.events
WHERE getSetting('enable_shared_storage_snapshot_in_query')
GROUP BY day, part;

CREATE OR REPLACE VIEW margin_daily AS
SELECT
    day,
    tenant_id,
    feature_id,
    provider,
    model,
    model_version,
    requests,
    billable_requests,
    input_tokens,
    output_tokens,
    cache_read_tokens,
    cache_write_tokens,
    cache_write_1h_tokens,
    reasoning_tokens,
    credits,
    cost,
    price,
    price - cost AS margin,
    if(price = 0, NULL, round((price - cost) * 100 / price, 4)) AS margin_pct
FROM
(
    SELECT * EXCEPT (part, built_at)
    FROM margin_rollup
    WHERE (day, part, built_at) IN (SELECT day, part, built_at FROM margin_days_rolled)
    UNION ALL
    SELECT
        toDate(timestamp) AS day,
        tenant_id,
        feature_id,
        provider,
        model,
        model_version,
        count() AS requests,
        countIf(billable) AS billable_requests,
        sum(u.input_tokens) AS input_tokens,
        sum(u.output_tokens) AS output_tokens,
        sum(u.cache_read_tokens) AS cache_read_tokens,
        sum(u.cache_write_tokens) AS cache_write_tokens,
        sum(u.cache_write_1h_tokens) AS cache_write_1h_tokens,
        sum(u.reasoning_tokens) AS reasoning_tokens,
        sum(u.credits) AS credits,
        sum(u.cost) AS cost,
        sum(u.price) AS price
    FROM priced_events AS u FINAL
    WHERE toDate(u.timestamp) NOT IN (SELECT day FROM margin_days_rolled)
    GROUP BY day, tenant_id, feature_id, provider, model, model_version
);

-- Sums up whole days that no build covers, the newest first, in the background of ClickHouse (of the process,
-- for the embedded engine). Nothing depends on it but speed. At most 16 days a minute in one thread, so that history that
-- was just loaded does not take the machine; three builds of a part, in case a crash cuts one short.
CREATE MATERIALIZED VIEW IF NOT EXISTS margin_rollup_refresh
REFRESH EVERY 1 MINUTE APPEND TO margin_rollup AS
SELECT
    toDate(timestamp) AS day,
    _part AS part,
    now64(6, 'UTC') AS built_at,
    tenant_id,
    feature_id,
    provider,
    model,
    model_version,
    count() AS requests,
    countIf(billable) AS billable_requests,
    sum(u.input_tokens) AS input_tokens,
    sum(u.output_tokens) AS output_tokens,
    sum(u.cache_read_tokens) AS cache_read_tokens,
    sum(u.cache_write_tokens) AS cache_write_tokens,
    sum(u.cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(u.reasoning_tokens) AS reasoning_tokens,
    sum(u.credits) AS credits,
    sum(u.cost) AS cost,
    sum(u.price) AS price
FROM priced_events AS u FINAL
WHERE _part IN
(
    SELECT part
    FROM margin_days_whole
    WHERE part NOT IN (SELECT part FROM margin_days_rolled)
        AND part NOT IN (SELECT part FROM margin_builds GROUP BY part HAVING count() >= 3)
    ORDER BY day DESC
    LIMIT 16
)
GROUP BY day, part, tenant_id, feature_id, provider, model, model_version
SETTINGS max_threads = 1;
