"""The same small models as the workers' tests."""

from tests.workers.conftest import gpt2_folder, load, load_reward, tiny_folder

__all__ = ["gpt2_folder", "load", "load_reward", "tiny_folder"]
