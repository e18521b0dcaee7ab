-- Judges asked by many workers: shared limits per endpoint, and cells that are known already.

SELECT 1;
