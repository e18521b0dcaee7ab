"""Trainers side by side: the same model, data and step, ours and TRL's, each in a process of its own, in turns."""
