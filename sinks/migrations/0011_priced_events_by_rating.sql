-- As after 0005, 0008 and 0009, but of the rows of one event the one of the greatest rating prevails. The job writes 0, and
-- each re-rating the next number: so a job that reads everything again cannot bring back amounts that were replaced since.
CREATE TABLE IF NOT EXISTS priced_events
(
    tenant_id             String,
    idempotency_key       String CODEC(ZSTD(1)),
    timestamp             DateTime64(3, 'UTC') CODEC(T64, ZSTD(1)),
    feature_id            LowCardinality(String),
    provider              LowCardinality(String),
    model                 LowCardinality(String),
    model_version         LowCardinality(String),
    region                LowCardinality(String),
    service_tier          LowCardinality(String),
    input_tokens          UInt64 CODEC(T64, ZSTD(1)),
    output_tokens         UInt64 CODEC(T64, ZSTD(1)),
    cache_read_tokens     UInt64 CODEC(T64, ZSTD(1)),
    cache_write_tokens    UInt64 CODEC(T64, ZSTD(1)),
    cache_write_1h_tokens UInt64 CODEC(T64, ZSTD(1)),
    reasoning_tokens      UInt64 CODEC(T64, ZSTD(1)),
    latency_ms            UInt64 CODEC(T64, ZSTD(1)),
    retry_count           UInt64 CODEC(T64, ZSTD(1)),
    cache_status          LowCardinality(String),
    status                LowCardinality(String),
    usage_source          LowCardinality(String),
    provider_cost         Nullable(Decimal(38, 12)),
    attributes            String CODEC(ZSTD(1)),
    billable              Bool,
    credits               Decimal(38, 12) CODEC(ZSTD(1)),
    cost                  Decimal(38, 12) CODEC(ZSTD(1)),
    price                 Decimal(38, 12) CODEC(ZSTD(1)),
    multiplier            Decimal(38, 12) CODEC(ZSTD(1)),
    rate_card_version     LowCardinality(String),
    late                  Bool,
    source                LowCardinality(String),
    source_partition      UInt32,
    source_offset         UInt64 CODEC(T64, ZSTD(1)),
    source_line           UInt32,
    ingested_at           DateTime64(3, 'UTC') CODEC(T64, ZSTD(1)),
    rating                UInt32 DEFAULT 0 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(rating)
PARTITION BY toDate(timestamp)
ORDER BY (tenant_id, toDate(timestamp), idempotency_key)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    min_age_to_force_merge_seconds = 600,
    min_age_to_force_merge_on_partition_only = 1,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    merge_selector_base = 12,
    auto_statistics_types = '';

-- The parts are taken over as they are, by links: no row is read or written. What an earlier try took over already is the
-- same row again.
ALTER TABLE priced_events_without_rating ADD COLUMN IF NOT EXISTS rating UInt32 DEFAULT 0 CODEC(T64, ZSTD(1));
ALTER TABLE priced_events ATTACH PARTITION ALL FROM priced_events_without_rating;
