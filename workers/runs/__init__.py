"""The only door to Postgres for workers: claims, leases and transitions (`claims`), a held job's fenced writes (`held`), and
batches of judged cells (`cells`)."""
