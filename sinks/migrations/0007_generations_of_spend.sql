-- A running sum could not be set back, not even by a right one: the version of a window was the number of its
-- events alone, and a sum that counts an event twice has more of them. Now sums have a generation too. A state
-- that is rebuilt begins a greater one than any before, and within a generation more events prevail, so that a
-- replay can only catch up.

-- The table of before, for a second run of this file after the first one got as far as dropping it.
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
ORDER BY (tenant_id, feature_id, window_kind, window_start);

-- `version` holds both in 64 bits: two to the power of 40 events a window are a trillion.
CREATE TABLE IF NOT EXISTS spend_sums
(
    tenant_id    String,
    feature_id   LowCardinality(String),
    window_kind  LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end   DateTime64(3, 'UTC'),
    spend        Decimal(38, 12),
    events       UInt64,
    cap          Nullable(Decimal(38, 12)),
    updated_at   DateTime64(3, 'UTC'),
    generation   UInt32,
    version      UInt64 MATERIALIZED bitShiftLeft(toUInt64(generation), 40) + events
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant_id, feature_id, window_kind, window_start)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 100000,
    replicated_deduplication_window_seconds = 1209600;

INSERT INTO spend_sums
    (tenant_id, feature_id, window_kind, window_start, window_end, spend, events, cap, updated_at, generation)
SELECT tenant_id, feature_id, window_kind, window_start, window_end, spend, events, cap, updated_at, 0
FROM spend_windows FINAL
SETTINGS insert_deduplicate = 0;

CREATE OR REPLACE VIEW spend AS
SELECT
    tenant_id,
    feature_id,
    window_kind,
    window_start,
    window_end,
    spend,
    events,
    cap,
    if(cap IS NULL OR cap = 0, NULL, round(spend / assumeNotNull(cap), 6)) AS ratio,
    if(cap IS NULL, NULL, greatest(assumeNotNull(cap) - spend, toDecimal128(0, 12))) AS remaining,
    updated_at
FROM spend_sums FINAL;

DROP TABLE IF EXISTS spend_windows;
