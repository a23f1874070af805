-- One row per priced event. Identity is (tenant, day of the event, idempotency key): an event that is
-- priced again after its state was lost replaces itself, so `usage` never changes. The deduplication
-- window (parts, each with the token of its block) makes the second insert of a block a no-op while the
-- first one is on its way; whether a block stands is asked otherwise (sinks/standing.py).
CREATE TABLE IF NOT EXISTS priced_events
(
    tenant_id             String,
    idempotency_key       String,
    timestamp             DateTime64(3, 'UTC'),
    feature_id            LowCardinality(String),
    provider              LowCardinality(String),
    model                 LowCardinality(String),
    model_version         LowCardinality(String),
    region                LowCardinality(String),
    service_tier          LowCardinality(String),
    input_tokens          UInt64,
    output_tokens         UInt64,
    cache_read_tokens     UInt64,
    cache_write_tokens    UInt64,
    cache_write_1h_tokens UInt64,
    reasoning_tokens      UInt64,
    latency_ms            UInt64,
    retry_count           UInt64,
    cache_status          LowCardinality(String),
    status                LowCardinality(String),
    usage_source          LowCardinality(String),
    provider_cost         Nullable(Decimal(38, 12)),
    attributes            String,
    billable              Bool,
    credits               Decimal(38, 12),
    cost                  Decimal(38, 12),
    price                 Decimal(38, 12),
    multiplier            Decimal(38, 12),
    rate_card_version     LowCardinality(String),
    late                  Bool,
    source                LowCardinality(String),
    source_partition      UInt32,
    source_offset         UInt64,
    source_line           UInt32,
    ingested_at           DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (tenant_id, toDate(timestamp), idempotency_key)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

-- One row per window and version. Its version is the number of events that it sums: a replay from the
-- start can only catch up with what is known, never set it back.
CREATE TABLE IF NOT EXISTS spend_windows
(
    tenant_id    String,
    feature_id   LowCardinality(String),
    window_kind  LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end   DateTime64(3, 'UTC'),
    spend        Decimal(38, 12),
    events       UInt64,
    cap          Nullable(Decimal(38, 12)),
    updated_at   DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(events)
ORDER BY (tenant_id, feature_id, window_kind, window_start)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

CREATE TABLE IF NOT EXISTS cap_alert_log
(
    alert_id     String,
    tenant_id    String,
    feature_id   LowCardinality(String),
    window_kind  LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end   DateTime64(3, 'UTC'),
    cap          Decimal(38, 12),
    threshold    Decimal(38, 12),
    spend        Decimal(38, 12),
    crossing_key String,
    raised_at    DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY alert_id
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

CREATE TABLE IF NOT EXISTS cap_alert_deliveries
(
    alert_id     String,
    delivered_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY alert_id
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

-- What could not be priced, whole. `revision` 0 is its arrival; a later revision says when it was resolved.
CREATE TABLE IF NOT EXISTS quarantine_log
(
    source           LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_line      UInt32,
    reason           LowCardinality(String),
    detail           String,
    tenant_id        String,
    model            String,
    raw              String,
    received_at      DateTime64(3, 'UTC'),
    resolved_at      Nullable(DateTime64(3, 'UTC')),
    revision         UInt32
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (source, source_partition, source_offset, source_line)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

-- Copies of priced events: each line that arrived has a row here, in priced_events or in quarantine_log.
CREATE TABLE IF NOT EXISTS duplicates
(
    source           LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_line      UInt32,
    tenant_id        String,
    idempotency_key  String,
    timestamp        DateTime64(3, 'UTC'),
    received_at      DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (source, source_partition, source_offset, source_line)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

-- How far each input has been published, and how many lines it held up to there.
CREATE TABLE IF NOT EXISTS source_progress
(
    source           LowCardinality(String),
    source_partition UInt32,
    next_offset      UInt64,
    events_read      UInt64,
    updated_at       DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (source, source_partition)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;
