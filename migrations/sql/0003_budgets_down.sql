DROP TABLE judge_reservations;
DROP TABLE judge_spending;
ALTER TABLE cells DROP COLUMN calls, DROP COLUMN cost_usd, DROP COLUMN tokens_estimated;
