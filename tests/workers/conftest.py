"""Small models with random weights, made once."""

from __future__ import annotations

import pytest
import torch

from examples.tiny_model import make_tiny_model
from workers.policy.heads import add_value_model, load_reward_policy
from workers.policy.loading import ModelFiles, load_policy

WORDS = [chr(ord("a") + k) for k in range(26)]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder, WORDS, seed=0, hidden=32)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory, tiny_folder):
    """Learned positions, and dropout that must not act."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=29, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=1, bos_token_id=1, pad_token_id=1,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def load():
    """Load a policy from a folder."""

    def loader(folder, **changes):
        options = {"adapter": None, "precision": "fp32", "budget": 10_000, "seed": 0, "reference": False, **changes}
        value = options.pop("value", None)
        files = ModelFiles("mdl_test", folder, [])
        policy = load_policy(files, **options)
        if value is not None:
            given = {name: options[name] for name in ("adapter", "precision", "budget", "seed")}
            add_value_model(policy, value, files, **given)
        return policy

    return loader


@pytest.fixture
def load_reward():
    """Load a reward model from a folder."""

    def loader(folder, **changes):
        options = {"adapter": None, "precision": "fp32", "budget": 10_000, "seed": 0, **changes}
        return load_reward_policy(ModelFiles("mdl_test", folder, []), **options)

    return loader
