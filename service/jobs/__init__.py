"""Jobs: submitted, watched, cancelled, paused, resumed."""
