"""Forward, sampler and tokenisation against the plain forward of transformers."""

import random

import pytest
import torch

from service.domain.conversation import Message
from service.domain.dataset import DemonstrationRow
from service.domain.job import LoraSpec
from workers.losses.logprobs import token_logprobs
from workers.policy.forward import policy_pieces
from workers.policy.generation.sampler import SamplingOptions, choose
from workers.policy.loading import ModelFiles, load_policy
from workers.policy.supervised import supervised_pieces
from workers.policy.tokenization import TokenizationError, decode, encode_demonstration, encode_prompt, eos_ids_of
from workers.types import PolicyBatch, SupervisedBatch

PROMPTS = [[3, 4, 5, 6], [7], [8, 9]]


def options(policy, **changes):
    base = {
        "group_size": 4,
        "temperature": 1.0,
        "max_tokens": 10,
        "eos_ids": policy.eos_ids,
        "pad_id": policy.pad_id,
        "seed": 5,
    }
    return SamplingOptions(**{**base, **changes})


def sample(policy, prompts=PROMPTS, **changes):
    groups = {}
    policy.sample(prompts, options(policy, **changes), lambda k, samples: groups.update({k: samples}), lambda: None)
    return [groups[k] for k in range(len(prompts))]


def batch_of(groups, prompts=PROMPTS, temperature=1.0, advantages=None):
    tokens = [s.tokens for g in groups for s in g]
    return PolicyBatch(
        prompts_P_T=prompts,
        tokens_B_T=tokens,
        logprobs_B_T=[s.logprobs for g in groups for s in g],
        advantages_B_T=[
            [a] * len(t)
            for a, t in zip(advantages or [0.1 * (k % 5) - 0.2 for k in range(len(tokens))], tokens, strict=True)
        ],
        prompt_of_B=[p for p, g in enumerate(groups) for _ in g],
        tokens_in_step=sum(map(len, tokens)),
        sequences_in_step=len(tokens),
        max_completion_tokens=10,
        temperature=temperature,
    )


def plain_logprobs(model, prompt, tokens, temperature=1.0):
    """One row at a time, without padding, cache or sharing."""
    ids = torch.tensor([[*prompt, *tokens]])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(tokens) :]
    return token_logprobs(logits, torch.tensor(tokens), temperature)


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_shared_prompts_give_the_plain_forward_and_its_gradient(kind, temperature, request, load):
    policy = load(request.getfixturevalue(kind))
    batch = batch_of(sample(policy, temperature=temperature), temperature=temperature)
    weights = torch.linspace(-1, 1, sum(map(len, batch.tokens_B_T)))
    flat = policy.logprobs(batch)
    (flat.logprobs * weights).sum().backward()
    ours = [p.grad.clone() for p in policy.parameters()]
    policy.model.zero_grad()
    rows = [
        plain_logprobs(policy.model, PROMPTS[p], tokens, temperature)
        for p, tokens in zip(batch.prompt_of_B, batch.tokens_B_T, strict=True)
    ]
    plain = torch.cat(rows)
    (plain * weights).sum().backward()
    assert torch.allclose(flat.logprobs, plain, atol=2e-5)
    for mine, parameter in zip(ours, policy.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=2e-5)
    assert flat.lengths == [len(t) for t in batch.tokens_B_T]


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_samplers_logprobs_are_the_trainers(kind, temperature, request, load):
    """Ratio 1 at step 0 on every token: with temperature, padding, pad equal to EOS, and a model that has dropout."""
    policy = load(request.getfixturevalue(kind))
    batch = batch_of(sample(policy, temperature=temperature), temperature=temperature)
    stored = torch.tensor([x for row in batch.logprobs_B_T for x in row])
    assert torch.allclose(policy.logprobs(batch).logprobs, stored, atol=1e-5)


def test_a_lora_reference_is_the_model_without_the_adapter(tiny_folder, load):
    policy = load(tiny_folder, adapter=LoraSpec(type="lora", r=4))
    base = load(tiny_folder)
    batch = batch_of(sample(policy))
    assert torch.equal(policy.reference_logprobs(batch), policy.logprobs(batch).logprobs.detach())  # B starts at zero
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    assert torch.allclose(policy.reference_logprobs(batch), base.logprobs(batch).logprobs, atol=1e-6)
    assert not torch.allclose(policy.logprobs(batch).logprobs, base.logprobs(batch).logprobs, atol=1e-3)
    trained = sum(p.numel() for p in policy.parameters())
    assert 0 < trained < sum(p.numel() for p in base.parameters())


def test_an_adapter_that_was_trained_on_an_adapter_loads(tiny_folder, load, tmp_path):
    """Two LoRA jobs in a row: the second one's model stands on the first one's, and says what the trained policy said."""
    files, trained = ModelFiles("mdl_0", tiny_folder, []), None
    for job in (1, 2):
        trained = load_policy(
            files, adapter=LoraSpec(type="lora", r=2), precision="fp32", budget=10_000, seed=job, reference=False
        )
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.05 * job)
        folder = tmp_path / str(job)
        trained.save(folder)
        files = ModelFiles(f"mdl_{job}", folder, [], base=files)
    batch = batch_of(sample(load(tiny_folder)))
    loaded = load_policy(files, adapter=None, precision="fp32", budget=10_000, seed=0, reference=False)
    assert torch.allclose(loaded.logprobs(batch).logprobs, trained.logprobs(batch).logprobs, atol=1e-4)
    assert not torch.allclose(loaded.logprobs(batch).logprobs, load(tiny_folder).logprobs(batch).logprobs, atol=1e-2)


def test_a_full_reference_is_a_frozen_copy(tiny_folder, load):
    policy = load(tiny_folder, reference=True)
    batch = batch_of(sample(policy))
    before = policy.reference_logprobs(batch)
    with torch.no_grad():
        next(iter(policy.parameters())).add_(1.0)
    assert torch.equal(policy.reference_logprobs(batch), before)
    assert not before.requires_grad


@pytest.mark.parametrize("budget", [8, 20, 40, 80, 10_000])
def test_pieces_add_up_and_fit(tiny_folder, load, budget):
    policy = load(tiny_folder)
    rng = random.Random(budget)
    groups = sample(policy)
    batch = batch_of(groups, advantages=[rng.uniform(-1, 1) for _ in range(12)])
    pieces = list(policy_pieces(batch, budget))
    assert sorted(a for piece in pieces for a in piece.advantages_B_T) == sorted(batch.advantages_B_T)
    for piece in pieces:
        padded = len(piece.prompts_P_T) * max(map(len, piece.prompts_P_T)) + len(piece.tokens_B_T) * max(
            map(len, piece.tokens_B_T)
        )
        assert padded <= budget or len(piece.tokens_B_T) == 1
        assert piece.tokens_in_step == batch.tokens_in_step
    rows = SupervisedBatch([PROMPTS[0]] * 5, batch.tokens_B_T[:5], [1.0, 2, 3, 4, 5], 9.0)
    parts = list(supervised_pieces(rows, budget, packed=False))
    assert sorted(w for part in parts for w in part.weights_B) == [1, 2, 3, 4, 5]


# --- the sampler ---


def test_greedy_is_transformers_greedy(tiny_folder, load):
    policy = load(tiny_folder)
    groups = sample(policy, temperature=0.0, group_size=1, max_tokens=12)
    for prompt, (mine,) in zip(PROMPTS, groups, strict=True):
        theirs = policy.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=policy.eos_ids
        )[0, len(prompt) :]
        assert mine.tokens == theirs.tolist()


def test_sampling_follows_the_distribution():
    """Frequencies of 40,000 draws against the softmax: within five standard errors for every token."""
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    n = 40_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature in (1.0, 0.5):
        token, logprob = choose(logits.expand(n, -1), uniform, temperature)
        probabilities = torch.softmax(logits[0].double() / temperature, -1)
        counts = torch.bincount(token, minlength=4) / n
        error = (probabilities * (1 - probabilities) / n).sqrt()
        assert ((counts - probabilities).abs() < 5 * error).all()
        assert torch.allclose(logprob, probabilities.log()[token])


def test_a_token_of_probability_zero_is_never_taken():
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]])
    edge = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0 - 2**-53], dtype=torch.float64)
    token, _ = choose(logits.expand(5, -1), edge, 1.0)
    assert set(token.tolist()) <= {1, 3}


def test_every_eos_id_ends_a_completion_and_is_kept(tiny_folder, load):
    policy = load(tiny_folder)
    policy.model.generation_config.eos_token_id = [1, 11]
    assert eos_ids_of(policy.model, policy.tokenizer) == [1, 11]
    policy.eos_ids = [1, 11, 12]
    samples = [s for group in sample(policy, group_size=16, max_tokens=30) for s in group]
    ends = {s.tokens[-1] for s in samples if s.finish_reason == "stop"}
    assert ends == {1, 11, 12}
    for one in samples:
        assert not set(one.tokens[:-1]) & {1, 11, 12}
        assert (one.finish_reason == "stop") == (one.tokens[-1] in (1, 11, 12))
        assert len(one.logprobs) == len(one.tokens) <= 30


def test_a_row_does_not_depend_on_its_neighbours_or_on_the_order_of_ending(tiny_folder, load):
    policy = load(tiny_folder)
    alone = sample(policy, PROMPTS[:1])
    together = sample(policy, PROMPTS)
    # The same draws stand at the same places for the first prompt's rows only if there are as many rows; so compare
    # two runs of equal size, in which the neighbours end at other times because their prompts differ.
    other = sample(policy, [PROMPTS[0], [20, 21], [22]])
    assert [s.tokens for s in together[0]] == [s.tokens for s in other[0]]
    assert all(s.tokens for s in alone[0])


def test_the_seed_decides(tiny_folder, load):
    policy = load(tiny_folder)
    first, again, other = sample(policy), sample(policy), sample(policy, seed=6)
    assert first == again
    assert first != other


def test_sampling_changes_no_weight_and_keeps_no_graph(tiny_folder, load):
    policy = load(tiny_folder)
    before = [p.detach().clone() for p in policy.parameters()]
    sample(policy)
    for old, new in zip(before, policy.parameters(), strict=True):
        assert torch.equal(old, new)
        assert old.dtype == new.dtype
        assert new.requires_grad


def test_an_interruption_stops_sampling_at_once(tiny_folder, load):
    policy = load(tiny_folder)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        policy.sample(PROMPTS, options(policy, max_tokens=50), lambda k, s: None, check)
    assert len(calls) == 3


# --- tokenisation ---

TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} <eos>{% endfor %}{% if add_generation_prompt %}a {% endif %}"


def test_plain_text_and_its_end(tiny_folder, load):
    policy = load(tiny_folder)
    assert encode_prompt(policy.tokenizer, "a b c", policy.eos_ids) == policy.tokenizer("a b c")["input_ids"]
    prompt, completion = encode_demonstration(
        policy.tokenizer, DemonstrationRow(prompt="a b", completion="c"), policy.eos_ids
    )
    assert completion == [*policy.tokenizer("c")["input_ids"], 1]
    assert decode(policy.tokenizer, completion, policy.eos_ids) == "c"
    assert prompt == policy.tokenizer("a b")["input_ids"]


def test_messages_go_through_the_template_once(tiny_folder, load):
    policy = load(tiny_folder)
    tokenizer = policy.tokenizer
    turns = [Message(role="user", content="b c"), Message(role="assistant", content="d")]
    with pytest.raises(TokenizationError, match="no chat template"):
        encode_prompt(tokenizer, turns[:1], policy.eos_ids)
    tokenizer.chat_template = TEMPLATE
    prompt, completion = encode_demonstration(tokenizer, DemonstrationRow(messages=turns), policy.eos_ids)
    whole = tokenizer("u b c <eos> a d <eos>")["input_ids"]
    assert prompt + completion == whole
    assert completion.count(1) == 1
    assert encode_prompt(tokenizer, turns[:1], policy.eos_ids) == prompt


def test_a_template_that_renders_the_prompt_differently_is_refused(tiny_folder, load):
    policy = load(tiny_folder)
    policy.tokenizer.chat_template = (
        "{% if messages|length > 1 %}z {% endif %}{% for m in messages %}{{ m.content }} {% endfor %}"
    )
    row = DemonstrationRow(messages=[Message(role="user", content="b"), Message(role="assistant", content="d")])
    with pytest.raises(TokenizationError, match="differently"):
        encode_demonstration(policy.tokenizer, row, policy.eos_ids)


def test_what_text_cannot_hold_is_shown_as_a_replacement():
    class Odd:
        def decode(self, ids, **_):
            return "a\x00b\ud800"

    assert decode(Odd(), [1, 2], [9]) == "a\ufffdb\ufffd"
