# ruff: noqa: S106 (tokens of a vocabulary, no passwords)
"""The model of the benchmark: llama-style, from a configuration, with random weights; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from benchmarks.trainers.sizes import FIRST_WORD, SPECIAL, Sizes


def make_model(folder: Path, sizes: Sizes) -> int:
    """Write model and tokenizer; the number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    known = {word: k for k, word in enumerate([*SPECIAL, *(f"w{k}" for k in range(sizes.vocabulary - FIRST_WORD))])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, intermediate_size=sizes.inner,
            num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, num_key_value_heads=sizes.key_value_heads,
            max_position_embeddings=sizes.context, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
            bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
