ALTER TABLE cells DROP COLUMN reply_format, DROP COLUMN unasked;
