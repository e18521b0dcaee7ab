"""`grape up`: Postgres, Valkey, migrations, API and workers on this machine, under one supervisor."""
