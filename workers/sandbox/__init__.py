"""Running code that nobody vouches for: the backends and their self-check on this side, `inside` on the other."""
