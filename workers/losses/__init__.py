"""Pure torch: per-token values from tensors, never reduced. Nothing of ours is imported here."""
