"""A language model that judges, with weights written by hand: it copies the nonce, and says `true` with a probability that we chose.

One layer of a llama. Its only head looks, whatever the tokens are, at the token `BACK` places before (queries and keys are biases,
and rotary positions make their product largest at that distance), and puts it beside the present one; the output layer has a row of
scores for each present token and each copied one. So after `<g>` (the answer begins) comes OPEN, after OPEN the first digit of the
nonce, which stands `BACK` places before, and so on; where the copied token is the end of the question, MIDDLE; then the verdict
with logits that differ by ln(p/(1 − p)), then CLOSE and the end.
"""

from __future__ import annotations

import math

HEX = list("0123456789abcdef")
OPEN = '{"nonce": "'
MIDDLE = '", "verdicts": [{"criterion": "nice", "reasoning": "weighed", "verdict": '
CLOSE = ', "confidence": 0.8}]}'
WORDS = ["<pad>", "<eos>", "<unk>", "<x>", "<g>", *HEX, OPEN, MIDDLE, "true", "false", CLOSE]
BACK = 18
"""From OPEN to the first digit of the nonce: 16 digits, `<x>`, `<g>`."""

TEMPLATE = "{% for m in messages %}{{ m.content }}<x>{% endfor %}{% if add_generation_prompt %}<g>{% endif %}"
SIZE = 32
"""Of the vocabulary, with some words nobody says; the state is twice as wide, for the present and the copied token."""


def make_judge_model(folder, p_true=0.75, context=8192, template=TEMPLATE):
    """Write the model and its tokenizer."""
    import torch
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ids = {word: k for k, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9a-f]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in (OPEN, MIDDLE, "true", "false", CLOSE)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<x>", "<g>"],
    )  # fmt: skip
    fast.chat_template = template
    fast.save_pretrained(folder)
    width = 2 * SIZE
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SIZE, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=context, attention_bias=True, tie_word_embeddings=False,
            pad_token_id=0, eos_token_id=1, bos_token_id=None, rms_norm_eps=1e-12,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        layer = model.model.layers[0]
        layer.input_layernorm.weight.fill_(1)
        layer.post_attention_layernorm.weight.fill_(1)
        model.model.embed_tokens.weight[:, :SIZE] = torch.eye(SIZE)
        angle = 10000.0 ** (-torch.arange(SIZE) / SIZE)
        strength = math.sqrt(320)
        layer.self_attn.q_proj.bias[:SIZE] = strength
        layer.self_attn.k_proj.bias[:SIZE] = strength * torch.cos(angle * BACK)
        layer.self_attn.k_proj.bias[SIZE:] = strength * torch.sin(angle * BACK)
        # The norm before it makes a one-hot state as long as √width; the copied token comes back as long as the present one.
        layer.self_attn.v_proj.weight[SIZE:, :SIZE] = torch.eye(SIZE) / math.sqrt(width)
        layer.self_attn.o_proj.weight.copy_(torch.eye(width))
        scores = model.lm_head.weight
        for present, following, score in (
            ("<g>", OPEN, 40), (MIDDLE, "true", 30 + math.log(p_true / (1 - p_true))), (MIDDLE, "false", 30),
            ("true", CLOSE, 40), ("false", CLOSE, 40), (CLOSE, "<eos>", 40),
        ):  # fmt: skip
            scores[ids[following], ids[present]] = score
        for copied, following in [*((digit, digit) for digit in HEX), ("<x>", MIDDLE)]:
            scores[ids[following], SIZE + ids[copied]] = 20
        scores /= math.sqrt(width / 2)  # the last norm makes the two ones of the state this long
    model.save_pretrained(folder)
    return folder
