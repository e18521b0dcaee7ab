"""Side-by-side measurements of performance and learning, each one command (README, "Measured")."""
