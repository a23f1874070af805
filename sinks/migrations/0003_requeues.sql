-- Quarantined lines that were put through the job again: which line of which requeue each one became. The lines
-- stand in `requeue/<requeue_id>.jsonl` of the state directory, which is also the `source` of their rows.
CREATE TABLE IF NOT EXISTS requeues
(
    requeue_id       String,
    number           UInt32,
    source           LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_line      UInt32,
    tenant_id        String,
    idempotency_key  String,
    timestamp        DateTime64(3, 'UTC'),
    begun_at         DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (requeue_id, number);
