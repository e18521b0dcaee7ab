"""Celery workers that train and grade. `service` never imports this; `workers` shares its domain and database floor."""
