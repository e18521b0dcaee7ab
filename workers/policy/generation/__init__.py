"""Sampling completions from the policy that is being trained."""
