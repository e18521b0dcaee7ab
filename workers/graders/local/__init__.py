"""Graders that are models on this machine: reward models and judges. Torch is here; import this room only when there is work."""
