-- priced_events gets another partition key, for which ClickHouse needs another table: the old one steps aside, and
-- 0005 and 0006 copy its rows and drop it. Each of the three files can be run again after a crash anywhere in it.
-- A job that still runs meets a table that is missing and keeps its rows staged; whoever reads meanwhile meets views
-- that are missing, not views that are short of rows.
DROP VIEW IF EXISTS margin_daily;
DROP VIEW IF EXISTS usage;
RENAME TABLE IF EXISTS priced_events TO priced_events_by_month;
