"""The API process, and the floor (domain, database, settings) that the workers share."""
