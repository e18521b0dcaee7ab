DROP INDEX completions_source;
ALTER TABLE cells DROP COLUMN stated_confidence, DROP COLUMN calibration_id, DROP COLUMN calibration_version;
DROP TABLE calibrations;
DROP TABLE hidden_critiques;
DROP TABLE critique_ratings;
DROP TABLE critiques;
DROP TABLE labels;
