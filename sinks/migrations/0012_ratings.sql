DROP TABLE IF EXISTS priced_events_without_rating;

-- What happened to a re-rating, step by step: 0 it wants to begin, 1 it has begun and will be finished, 2 it is applied,
-- 3 it was taken back before it began. All rows of one re-rating say the same, but for the step and what is known by then.
-- `card` has name and text of the files of the rate card, `closed` the months (first days) that were closed: whoever finishes
-- it needs nothing else. Deltas and `events` are of what was changed, `unpriced` counts events that kept their rating.
CREATE TABLE IF NOT EXISTS rerate_log
(
    rating            UInt32,
    rerate_id         String,
    step              UInt8,
    actor             String,
    begun_at          DateTime64(3, 'UTC'),
    applied_at        Nullable(DateTime64(3, 'UTC')),
    first_day         Date,
    end_day           Date,
    tenant_id         String,
    model             String,
    rate_card_version String,
    card              Array(Tuple(String, String)),
    closed            Array(Date),
    booked_on         Date,
    events            UInt64,
    adjusted          UInt64,
    unpriced          UInt64,
    delta_cost        Decimal(38, 12),
    delta_price       Decimal(38, 12),
    delta_credits     Decimal(38, 12),
    noted_at          DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(step)
ORDER BY (rating, rerate_id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1;

-- What a re-rating made of an event: the amounts that were in force, adjustments included, those that are since, and the
-- difference. `adjusted`: its month was closed, so its row in priced_events stayed as it was. `row_price_delta` is by how
-- much that row's price changed. Written before the rows themselves, and again, the same, if that was interrupted.
CREATE TABLE IF NOT EXISTS rating_history
(
    tenant_id             String,
    idempotency_key       String CODEC(ZSTD(1)),
    timestamp             DateTime64(3, 'UTC') CODEC(T64, ZSTD(1)),
    rating                UInt32,
    rerate_id             LowCardinality(String),
    feature_id            LowCardinality(String),
    provider              LowCardinality(String),
    model                 LowCardinality(String),
    old_cost              Decimal(38, 12) CODEC(ZSTD(1)),
    old_price             Decimal(38, 12) CODEC(ZSTD(1)),
    old_credits           Decimal(38, 12) CODEC(ZSTD(1)),
    old_multiplier        Decimal(38, 12) CODEC(ZSTD(1)),
    old_rate_card_version LowCardinality(String),
    cost                  Decimal(38, 12) CODEC(ZSTD(1)),
    price                 Decimal(38, 12) CODEC(ZSTD(1)),
    credits               Decimal(38, 12) CODEC(ZSTD(1)),
    multiplier            Decimal(38, 12) CODEC(ZSTD(1)),
    rate_card_version     LowCardinality(String),
    delta_cost            Decimal(38, 12) CODEC(ZSTD(1)),
    delta_price           Decimal(38, 12) CODEC(ZSTD(1)),
    delta_credits         Decimal(38, 12) CODEC(ZSTD(1)),
    adjusted              Bool,
    row_price_delta       Decimal(38, 12) CODEC(ZSTD(1)),
    late                  Bool,
    source                LowCardinality(String),
    source_partition      UInt32,
    source_offset         UInt64 CODEC(T64, ZSTD(1)),
    source_line           UInt32,
    rated_at              DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (tenant_id, toDate(timestamp), idempotency_key, rating)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1;

-- Differences that were booked on a later day, because the month of the event was closed. One of each event and re-rating.
CREATE TABLE IF NOT EXISTS adjustments
(
    booked_on         Date,
    tenant_id         String,
    idempotency_key   String CODEC(ZSTD(1)),
    timestamp         DateTime64(3, 'UTC') CODEC(T64, ZSTD(1)),
    rating            UInt32,
    rerate_id         LowCardinality(String),
    feature_id        LowCardinality(String),
    provider          LowCardinality(String),
    model             LowCardinality(String),
    model_version     LowCardinality(String),
    delta_cost        Decimal(38, 12) CODEC(ZSTD(1)),
    delta_price       Decimal(38, 12) CODEC(ZSTD(1)),
    delta_credits     Decimal(38, 12) CODEC(ZSTD(1)),
    multiplier        Decimal(38, 12) CODEC(ZSTD(1)),
    rate_card_version LowCardinality(String),
    booked_at         DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(booked_on)
ORDER BY (booked_on, tenant_id, toDate(timestamp), idempotency_key, rating)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1;

-- Months (their first days, UTC) as they were closed and opened again; the latest prevails.
CREATE TABLE IF NOT EXISTS period_changes
(
    month      Date,
    closed     Bool,
    actor      String,
    changed_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(changed_at)
ORDER BY month
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1;

CREATE OR REPLACE VIEW closed_periods AS
SELECT month, actor, changed_at AS closed_at
FROM period_changes FINAL
WHERE closed;

CREATE OR REPLACE VIEW rerates AS
SELECT * EXCEPT (step, noted_at)
FROM rerate_log FINAL
WHERE step IN (1, 2);

-- 0002 says why FINAL; of the rows of an event the one of the greatest rating is in force.
CREATE OR REPLACE VIEW usage AS
SELECT *
FROM priced_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Every rating that an event has had, of events that were re-rated: its first is 0, the job's.
CREATE OR REPLACE VIEW ratings AS
SELECT
    tenant_id,
    idempotency_key,
    timestamp,
    rating,
    cost,
    price,
    credits,
    multiplier,
    rate_card_version,
    adjusted,
    rerate_id,
    rated_at
FROM rating_history FINAL
UNION ALL
SELECT
    tenant_id,
    idempotency_key,
    min(timestamp) AS timestamp,
    toUInt32(0) AS rating,
    argMin(h.old_cost, h.rating) AS cost,
    argMin(h.old_price, h.rating) AS price,
    argMin(h.old_credits, h.rating) AS credits,
    argMin(h.old_multiplier, h.rating) AS multiplier,
    argMin(h.old_rate_card_version, h.rating) AS rate_card_version,
    false AS adjusted,
    '' AS rerate_id,
    CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))') AS rated_at
FROM rating_history AS h FINAL
GROUP BY tenant_id, toDate(h.timestamp), idempotency_key;

-- What the job charged to windows of spend when it saw the events: prices of `usage` with every re-rating taken back.
-- `events` is 1 for an event and 0 for what is taken back.
CREATE OR REPLACE VIEW charges AS
SELECT tenant_id, feature_id, timestamp, price, 1 AS events, source, source_partition, source_offset
FROM usage
WHERE NOT late
UNION ALL
SELECT tenant_id, feature_id, timestamp, -row_price_delta AS price, 0 AS events, source, source_partition, source_offset
FROM rating_history FINAL
WHERE NOT late AND row_price_delta != 0;

-- As in 0006, and with adjustments on the day on which they were booked, without requests or tokens. A day that has some is
-- always read from its rows.
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
        AND day NOT IN (SELECT booked_on FROM adjustments)
    UNION ALL
    SELECT
        day,
        tenant_id,
        feature_id,
        provider,
        model,
        model_version,
        sum(r.requests) AS requests,
        sum(r.billable_requests) AS billable_requests,
        sum(r.input_tokens) AS input_tokens,
        sum(r.output_tokens) AS output_tokens,
        sum(r.cache_read_tokens) AS cache_read_tokens,
        sum(r.cache_write_tokens) AS cache_write_tokens,
        sum(r.cache_write_1h_tokens) AS cache_write_1h_tokens,
        sum(r.reasoning_tokens) AS reasoning_tokens,
        sum(r.credits) AS credits,
        sum(r.cost) AS cost,
        sum(r.price) AS price
    FROM
    (
        SELECT
            toDate(timestamp) AS day,
            tenant_id,
            feature_id,
            provider,
            model,
            model_version,
            1 AS requests,
            toUInt8(billable) AS billable_requests,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            credits,
            cost,
            price
        FROM priced_events FINAL
        WHERE toDate(timestamp) NOT IN
            (SELECT day FROM margin_days_rolled WHERE day NOT IN (SELECT booked_on FROM adjustments))
        UNION ALL
        SELECT
            booked_on AS day,
            tenant_id,
            feature_id,
            provider,
            model,
            model_version,
            0, 0, 0, 0, 0, 0, 0, 0,
            delta_credits,
            delta_cost,
            delta_price
        FROM adjustments FINAL
    ) AS r
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
