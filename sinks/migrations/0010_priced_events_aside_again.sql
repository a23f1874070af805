-- priced_events gets a version, `rating`, for which ClickHouse needs another table: the old one steps aside as in 0004, and
-- 0011 and 0012 take its parts over and drop it. Each of the three files can be run again after a crash anywhere in it.
-- The rollup begins anew: it knows parts by names that parts of the new table will bear.
DROP VIEW IF EXISTS margin_rollup_refresh;
DROP VIEW IF EXISTS margin_daily;
DROP VIEW IF EXISTS usage;
TRUNCATE TABLE IF EXISTS margin_rollup;
RENAME TABLE IF EXISTS priced_events TO priced_events_without_rating;
