-- The job forgets a block once ClickHouse has taken it, so what is taken must be on the disk: by default ClickHouse
-- leaves that to the kernel, and half a minute of rows dies with the machine's power. Costs 0.5 microseconds a row in
-- blocks of 30,000 (2.6 to 3.1, chDB 26.9). A merge needs none: its sources are kept for eight minutes after it.
ALTER TABLE priced_events MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE duplicates MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE quarantine_log MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE spend_sums MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE cap_alert_log MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE cap_alert_deliveries MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE source_progress MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
ALTER TABLE requeues MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;
