"""Programs that use the service as a user would: over HTTP. Nothing in `service` or `workers` imports this."""
