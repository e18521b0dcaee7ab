"""Celery tasks: thin. Each is a wake-up that may be lost, doubled or late without harm."""
