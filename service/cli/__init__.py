"""The `grape` command, built on `service.client`: nothing here knows the database or torch."""
