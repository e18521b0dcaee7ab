-- Reward models: the constants that turn their outputs into scores.

SELECT 1;
