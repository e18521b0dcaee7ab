"""LLM judges: what they are asked, how their replies are read, and the client that asks."""
