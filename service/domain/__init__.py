"""Pure values of the field: pydantic and the standard library only, never torch, never a database."""
