"""The material of the integration tests, for stacks that a test breaks."""

from tests.integration.conftest import Bench, bench

__all__ = ["Bench", "bench"]
