-- Exact at any moment: FINAL merges what a replay wrote twice. Both copies share tenant and day, so
-- they share a partition, and partitions need not be merged with each other.
CREATE OR REPLACE VIEW usage AS
SELECT *
FROM priced_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE OR REPLACE VIEW margin_daily AS
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
    sum(u.price) AS price,
    sum(u.price) - sum(u.cost) AS margin,
    if(sum(u.price) = 0, NULL, round((sum(u.price) - sum(u.cost)) * 100 / sum(u.price), 4)) AS margin_pct
FROM usage AS u
GROUP BY day, tenant_id, feature_id, provider, model, model_version;

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
FROM spend_windows FINAL;

CREATE OR REPLACE VIEW cap_alerts AS
SELECT
    a.alert_id AS alert_id,
    a.tenant_id AS tenant_id,
    a.feature_id AS feature_id,
    a.window_kind AS window_kind,
    a.cap AS cap,
    a.window_start AS window_start,
    a.window_end AS window_end,
    a.threshold AS threshold,
    a.spend AS spend,
    a.crossing_key AS crossing_key,
    a.raised_at AS raised_at,
    if(d.delivered_at = toDateTime64(0, 3, 'UTC'), NULL, d.delivered_at) AS delivered_at
FROM cap_alert_log AS a FINAL
LEFT JOIN (SELECT alert_id, min(cap_alert_deliveries.delivered_at) AS delivered_at FROM cap_alert_deliveries GROUP BY alert_id) AS d
    ON a.alert_id = d.alert_id
SETTINGS join_use_nulls = 0;

-- `source` reads as a place to look: `path:line` for files, `topic/partition@offset#line` for Kafka.
CREATE OR REPLACE VIEW quarantine AS
SELECT
    reason,
    detail,
    raw,
    if(position(q.source, '/') > 0 OR startsWith(q.source, 'stdin:'),
        concat(q.source, ':', toString(source_offset)),
        concat(q.source, '/', toString(source_partition), '@', toString(source_offset), '#', toString(source_line))) AS source,
    received_at,
    resolved_at,
    tenant_id,
    model,
    q.source AS source_name,
    source_partition,
    source_offset,
    source_line
FROM quarantine_log AS q FINAL;
