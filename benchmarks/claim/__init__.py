"""The parts of `python -m benchmarks.grape_claim`: does weighting by confidence help? The protocol is `benchmarks/protocol.md`."""
