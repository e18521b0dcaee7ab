"""Criteria drafted by a model from better and worse answers, each checked before a person sees it."""
