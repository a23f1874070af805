-- As in 0001, but a partition is a day. Both copies of an event have the same day, so a day is merged, and deduplicated,
-- by itself: a day without new rows ends up as one part, which a query reads without merging and which `margin_rollup`
-- (0006) sums up once. A job writes to a day or two at a time, so it makes no more parts than before; a block that spans
-- many days makes one for each.
--
-- min_age_to_force_merge_*: ten minutes after its last row a day becomes one part. A late row costs that day one more
-- merge, at most every ten minutes.
--
-- Codecs, measured on 10 million rows: sinks/README.md.
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
    ingested_at           DateTime64(3, 'UTC') CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(timestamp)
ORDER BY (tenant_id, toDate(timestamp), idempotency_key)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600,
    min_age_to_force_merge_seconds = 600,
    min_age_to_force_merge_on_partition_only = 1;

-- What an earlier try copied already is the same row again.
INSERT INTO priced_events SELECT * FROM priced_events_by_month
SETTINGS max_partitions_per_insert_block = 0, insert_deduplicate = 0;
