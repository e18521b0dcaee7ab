"""Packing changes nothing that is learned, and every turn of the assistant is found, or the row is refused."""

import random

import pytest
import torch

from service.domain.algorithm import SftConfig
from service.domain.conversation import Message
from service.domain.dataset import DemonstrationRow
from service.domain.job_state import JobFailure
from tests.support.training import algorithm_of, gradient, spec_of
from workers.losses.logprobs import token_logprobs
from workers.policy.loading import ModelFiles, read_reading
from workers.policy.supervised import keeps_packed_apart, packed_rows, supervised_pieces
from workers.policy.tokenization import TokenizationError, encode_demonstration
from workers.policy.turns import encode_turns
from workers.rows import read_demonstrations
from workers.types import SupervisedBatch

SIZES = {"vocab_size": 29, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TURNS = (
    "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% if m.role == 'assistant' %}<eos> {% endif %}{% endfor %}"
)
PLAIN = TURNS + "{% if add_generation_prompt %}a {% endif %}"
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}a {% generation %}{{ m.content }}{% endgeneration %} <eos> "
    "{% else %}{{ m.role[0] }} {{ m.content }} {% endif %}{% endfor %}{% if add_generation_prompt %}a {% endif %}"
)
TALK = [("system", "z"), ("user", "b c"), ("assistant", "d e"), ("user", "f"), ("assistant", "g")]


def a_batch(rows=14, longest=12, seed=0, masked=True):
    draw = random.Random(seed)
    prompts = [[draw.randrange(3, 29) for _ in range(draw.randint(1, longest))] for _ in range(rows)]
    tokens = [[*(draw.randrange(3, 29) for _ in range(draw.randint(0, longest))), 1] for _ in range(rows)]
    trained = [[draw.random() < 0.6 for _ in row[:-1]] + [True] if masked else [True] * len(row) for row in tokens]
    return SupervisedBatch.step(prompts, tokens, [draw.choice([0.5, 1.0, 3.0]) for _ in range(rows)], trained)


def make(folder, name):
    """A small random model of another family in a folder that has the tokenizer."""
    import transformers as t

    torch.manual_seed(2)
    config = {
        "qwen3": lambda: t.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=256),
        # Every other layer sees 5 tokens back: packing has to go together with the model's own mask.
        "gemma3": lambda: t.Gemma3TextConfig(
            **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"],
        ),
        "mamba": lambda: t.MambaConfig(vocab_size=29, hidden_size=32, num_hidden_layers=2, state_size=4),
    }[name]()  # fmt: skip
    config.eos_token_id, config.pad_token_id = 1, 0
    t.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def reading(folder, template):
    found = read_reading(ModelFiles("mdl_test", folder, []))
    found.tokenizer.chat_template = template
    return found


def plain(policy, batch):
    """Each trained token's log-probability, a row at a time through the plain forward."""
    found = []
    for k, (prompt, tokens) in enumerate(zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)):
        ids = torch.tensor([[*prompt, *tokens]])
        logits = policy.model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(tokens) :]
        found.append(token_logprobs(logits, torch.tensor(tokens))[batch.trained_places(k)])
    return torch.cat(found)


# --- packing ---


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma3"])
def test_packed_rows_give_the_plain_forward_and_its_gradient(kind, request, load, tiny_folder, tmp_path):
    if kind in ("llama", "gpt2"):
        folder = request.getfixturevalue({"llama": "tiny_folder", "gpt2": "gpt2_folder"}[kind])
    else:
        load(tiny_folder).tokenizer.save_pretrained(tmp_path)
        folder = make(tmp_path, kind)
    policy, batch = load(folder), a_batch()
    assert keeps_packed_apart(policy.model, policy.pad_id, policy.device)
    policy.packs = True
    flat = policy.supervised_logprobs(batch)
    expected = plain(policy, batch)
    assert torch.allclose(flat.logprobs, expected, atol=1e-6)
    assert flat.lengths == [sum(row) for row in batch.trained_B_T]
    algorithm = algorithm_of(spec_of("sft"))
    whole = gradient(policy, algorithm, batch)
    policy.model.zero_grad()
    weights = expected.new_tensor(batch.weights_B)[flat.sequence]
    (-(weights * plain(policy, batch)).sum() / batch.weight_in_step).backward()
    theirs = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert torch.allclose(whole, theirs, atol=1e-6)
    for packs, budget in ((True, 30), (True, 60), (False, 30), (False, 10_000)):
        policy.packs, policy.budget = packs, budget
        assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_a_model_whose_state_runs_through_the_row_is_not_packed(load, tiny_folder, tmp_path):
    load(tiny_folder).tokenizer.save_pretrained(tmp_path)
    policy = load(make(tmp_path, "mamba"))
    assert not keeps_packed_apart(policy.model, policy.pad_id, policy.device)


def test_rows_are_filled_and_never_longer_than_the_longest_example():
    draw = random.Random(1)
    lengths = [draw.randint(1, 100) for _ in range(300)]
    rows = packed_rows(lengths, max(lengths))
    assert sorted(k for row in rows for k in row) == list(range(300))
    assert all(sum(lengths[k] for k in row) <= max(lengths) for row in rows)
    assert len(rows) * max(lengths) < 1.1 * sum(lengths) < 300 * max(lengths) * 0.6  # little padding is left, of much


@pytest.mark.parametrize("packed", [True, False])
def test_pieces_cover_the_batch_within_the_budget(packed):
    batch = SupervisedBatch.step([[3]] * 40, [[4] * (1 + 37 * k % 900) for k in range(40)], [1.0] * 40, [[True]])
    pieces = list(supervised_pieces(batch, 2_000, packed=packed))
    assert sorted(len(t) for piece in pieces for t in piece.tokens_B_T) == sorted(map(len, batch.tokens_B_T))
    for piece in pieces:
        lengths = [len(t) for t in piece.tokens_B_T]
        rows = packed_rows(lengths, max(lengths)) if packed else lengths
        assert len(rows) * max(lengths) <= 2_000 + max(lengths)
        assert piece.weight_in_step == batch.weight_in_step


# --- whose words are learned ---


def shown(found, tokenizer):
    prompt, tokens, trained = found
    words = tokenizer.convert_ids_to_tokens(tokens)
    return tokenizer.convert_ids_to_tokens(prompt), [w if t else f"({w})" for w, t in zip(words, trained, strict=True)]


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["compared", "marked"])
def test_every_answer_is_learned_with_its_end_token(tiny_folder, template):
    model = reading(tiny_folder, template)
    row = DemonstrationRow(messages=[Message(role=role, content=text) for role, text in TALK])
    found = encode_turns(model.tokenizer, row, model.eos_ids)
    prompt, tokens = shown(found, model.tokenizer)
    assert prompt == ["s", "z", "u", "b", "c", "a"]
    assert tokens == ["d", "e", "<eos>", "(u)", "(f)", "(a)", "g", "<eos>"]
    only = encode_demonstration(model.tokenizer, row, model.eos_ids)
    assert shown((*only, [True] * 2), model.tokenizer) == (
        ["s", "z", "u", "b", "c", "a", "d", "e", "<eos>", "u", "f", "a"], ["g", "<eos>"],
    )  # fmt: skip


def test_what_a_template_writes_after_the_end_of_a_turn_is_not_learned(tiny_folder):
    model = reading(tiny_folder, PLAIN.replace("<eos> ", "<eos> x "))
    row = DemonstrationRow(messages=[Message(role=role, content=text) for role, text in TALK])
    _, tokens = shown(encode_turns(model.tokenizer, row, model.eos_ids), model.tokenizer)
    assert tokens == ["d", "e", "<eos>", "(x)", "(u)", "(f)", "(a)", "g", "<eos>"]


def test_an_answer_without_an_end_token_gets_one(tiny_folder):
    model = reading(tiny_folder, PLAIN.replace("<eos> ", ""))
    row = DemonstrationRow(messages=[Message(role=role, content=text) for role, text in TALK])
    _, tokens = shown(encode_turns(model.tokenizer, row, model.eos_ids), model.tokenizer)
    assert tokens == ["d", "e", "(u)", "(f)", "(a)", "g", "<eos>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_what_to_do(tiny_folder):
    """As those that drop the reasoning of every answer but the last."""
    forgetful = (
        "{% for m in messages %}{{ m.role[0] }} {% if m.role == 'assistant' and not loop.last %}h{% else %}{{ m.content }}"
        "{% endif %} {% endfor %}{% if add_generation_prompt %}a {% endif %}"
    )
    model = reading(tiny_folder, forgetful)
    row = {"messages": [{"role": role, "content": text} for role, text in TALK]}
    with pytest.raises(
        JobFailure, match=r"row ds_0:7: .* writes turn 3 differently once others follow.*loss_on 'completion'"
    ) as caught:
        read_demonstrations("ds_0", [(7, row)], model, SftConfig(type="sft", loss_on="assistant"))
    assert caught.value.code == "data_invalid"
    (kept,) = read_demonstrations("ds_0", [(7, row)], model, SftConfig(type="sft"))
    assert model.tokenizer.convert_ids_to_tokens(kept.completion) == ["g", "<eos>"]


def test_conversations_need_a_chat_template_and_are_refused_before_weights_are_read(tiny_folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    model = read_reading(ModelFiles("mdl_test", tmp_path, []))  # there are no weights at all
    row = {"messages": [{"role": role, "content": text} for role, text in TALK]}
    for loss_on in ("completion", "assistant"):
        with pytest.raises(JobFailure, match=r"row ds_0:1: .*no chat template; give 'prompt' as plain text"):
            read_demonstrations("ds_0", [(1, row)], model, SftConfig(type="sft", loss_on=loss_on))
    (plain_text,) = read_demonstrations(
        "ds_0", [(1, {"prompt": "a b", "completion": "c"})], model, SftConfig(type="sft", loss_on="assistant")
    )
    assert plain_text.trained == [True, True]


def test_all_end_tokens_are_read_before_the_weights_as_after(gpt2_folder, tiny_folder, tmp_path, load):
    import json
    import shutil

    for folder in (gpt2_folder, tiny_folder):
        assert read_reading(ModelFiles("m", folder, [])).eos_ids == load(folder).eos_ids
    shutil.copytree(tiny_folder, tmp_path / "two")
    (tmp_path / "two" / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 1]}))
    found = read_reading(ModelFiles("m", tmp_path / "two", []))
    assert found.eos_ids == load(tmp_path / "two").eos_ids == [1, 7]
    assert found.context_length == load(tmp_path / "two").context_length == 64


def test_an_answer_that_merges_with_the_end_of_the_prompt_is_tokenised_as_it_is_sampled(tmp_path):
    """'\\n' + '\\nx' would become one '\\n\\n' token: the prompt's ids must stay those that sampling starts from."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "n": 1, "nn": 2, "u": 3, "a": 4, "x": 5}
    inner = Tokenizer(models.BPE(vocabulary, [("n", "n")]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] }} n{{ m.content }}{% if m.role == 'assistant' %} <eos>{% endif %} {% endfor %}"
        "{% if add_generation_prompt %}a n{% endif %}"
    )
    row = DemonstrationRow(messages=[Message(role="user", content="x"), Message(role="assistant", content="n x")])
    prompt, completion = encode_demonstration(tokenizer, row, [0])
    assert tokenizer.convert_ids_to_tokens(prompt) == ["u", "n", "x", "a", "n"]
    assert tokenizer.convert_ids_to_tokens(completion) == ["n", "x", "<eos>"]
    with pytest.raises(TokenizationError, match="loss_on 'completion'"):
        encode_turns(tokenizer, row, [0])
