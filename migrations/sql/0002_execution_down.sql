DROP TABLE cell_cache;
DROP TABLE judge_shares;
DROP TABLE judge_endpoints;
ALTER TABLE cells DROP COLUMN reply_format, DROP COLUMN unasked;
