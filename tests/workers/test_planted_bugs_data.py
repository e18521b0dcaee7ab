"""Bugs that other trainers really had (reference/training.md §2d), planted into what learns from rows that are there already.

Each has a check with its reason; the real code passes it, and the planted wrong variant is rejected by the same check.

| bug | check | planted |
|---|---|---|
| 2 mean of means under accumulation (SFT, DPO, reward model) | `any_cut` | each piece divided by its own rows |
| 12 padding without positions, 25 labels shifted twice | `rows_are_as_alone` | left padding that counts columns; targets one further |
| – packed examples that see each other | `rows_are_as_alone` | positions and attention run through the row |
| 13 the mask made from token equality (pad is EOS) | `every_token_once` | `ids != pad` |
| 14 one of several EOS ids | `one_end` | only the tokenizer's |
| 15 the end is never trained | `the_end_moves` | the last token left out |
| 16 double BOS | `one_begin` | templates and completions tokenised with special tokens |
| 17 pairs that lose or gain tokens | `nothing_lost` | cut at the prompt's length; the end appended again |
| 23 NaN on padding | `padding_may_say_anything` | multiplied by the mask |
| 24 nothing to train on | `nothing_is_zero` | a mean over no tokens |
| 29 means of pieces' means as metrics | `metrics_are_of_the_step` | pieces count alike |

References, reward models and resumes: `test_planted_bugs_pairs.py`; losses of policy gradients: `test_planted_bugs_losses.py`;
sampling, forwards and checkpoints: `test_planted_bugs_sampling.py`.
"""

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from service.domain.dataset import DemonstrationRow, PreferenceRow
from tests.support.training import PAIRS, algorithm_of, gradient, spec_of
from tests.workers.test_supervised import a_batch, plain
from workers.algorithms.base import pairs_of
from workers.losses.logprobs import token_logprobs
from workers.policy.forward import pad_left
from workers.policy.tokenization import encode_demonstration, encode_preference, encode_prompt
from workers.types import LossOutput, SupervisedBatch


def caught(check, *given):
    with pytest.raises(AssertionError):
        check(*given)


# --- 2 and 29: one step, however it is cut ---


class MeanOfMeans:
    """Each piece is divided by its own rows, and the pieces count alike."""

    def __init__(self, algorithm):
        self.algorithm = algorithm

    def loss(self, policy, piece):
        if isinstance(piece, SupervisedBatch):
            piece = piece.minibatch(list(range(len(piece.tokens_B_T))))
        else:
            piece = replace(piece, pairs_in_step=len(piece.ids_P))
        return LossOutput(self.algorithm.loss(policy, piece).loss / self.pieces, {})


def any_cut(policy, algorithm, batch):
    found = []
    for budget in (10_000, 40, 14):
        policy.budget = budget
        algorithm.pieces = len(policy.microbatches(batch))
        found.append(gradient(policy, algorithm, batch))
    assert algorithm.pieces > 2
    assert found[0].abs().max() > 1e-4
    assert all(torch.allclose(other, found[0], atol=1e-6) for other in found)


@pytest.mark.parametrize("kind", ["sft", "packed", "dpo", "reward_model"])
def test_2_denominators_are_those_of_the_step(tiny_folder, load, load_reward, kind):
    policy = load_reward(tiny_folder) if kind == "reward_model" else load(tiny_folder)
    algorithm = algorithm_of(spec_of("sft" if kind == "packed" else kind))
    batch = a_batch() if kind in ("sft", "packed") else pairs_of(PAIRS, {row.id: (-3.0, -2.0) for row in PAIRS})
    if kind == "packed":
        policy.packs = True
    any_cut(policy, algorithm, batch)
    caught(any_cut, policy, MeanOfMeans(algorithm), batch)


def metrics_are_of_the_step(of_pieces):
    """Three pieces with 1, 2 and 5 pairs, right in 1, 1 and 0 of them: accuracy 2/8."""
    assert of_pieces([(1.0, 1.0), (1.0, 2.0), (0.0, 5.0)]) == pytest.approx(0.25)


def test_29_metrics_are_means_over_the_step(tiny_folder, load):
    def real(pieces):
        class Fixed(type(algorithm_of(spec_of("sft")))):
            def loss(self, policy, piece):
                return LossOutput(next(policy.parameters()).sum() * 0, {"right": piece})

        class Cut:
            def __getattr__(self, name):
                return getattr(policy, name)

            def microbatches(self, batch):
                return batch

        policy = load(tiny_folder)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        return Fixed(spec_of("sft")).update(Cut(), pieces, optimizer).metrics["right"]

    metrics_are_of_the_step(real)
    caught(metrics_are_of_the_step, lambda pieces: sum(total / n for total, n in pieces) / len(pieces))


# --- 12, 25, packing: a row says what it says alone ---


def rows_are_as_alone(policy, batch, logprobs):
    assert torch.allclose(logprobs(policy, batch), plain(policy, batch), atol=1e-5)


def real_logprobs(policy, batch):
    return policy.supervised_logprobs(batch).logprobs


def left_padded(policy, batch, shift=0, positions=False):
    rows = [[*p, *t] for p, t in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]
    ids, mask = pad_left(rows, policy.pad_id, policy.device)
    places = (mask.cumsum(-1) - 1).clamp(min=0) if positions else torch.arange(ids.shape[1]).expand_as(ids)
    logits = policy.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits
    found = []
    for k, tokens in enumerate(batch.tokens_B_T):
        first = ids.shape[1] - len(tokens)
        said = token_logprobs(logits[k, first - 1 + shift : first - 1 + shift + len(tokens)], torch.tensor(tokens))
        found.append(said[batch.trained_places(k)])
    return torch.cat(found)


def run_together(policy, batch):
    """One row after the other, as if they were one text."""
    whole = [x for p, t in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True) for x in (*p, *t)]
    logits = policy.model(input_ids=torch.tensor([whole]), use_cache=False).logits[0]
    found, column = [], 0
    for k, (prompt, tokens) in enumerate(zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)):
        first = column + len(prompt) - 1
        found.append(token_logprobs(logits[first : first + len(tokens)], torch.tensor(tokens))[batch.trained_places(k)])
        column += len(prompt) + len(tokens)
    return torch.cat(found)


@pytest.mark.parametrize("packs", [True, False])
def test_12_and_25_a_row_is_what_it_is_alone(gpt2_folder, load, packs):
    policy, batch = load(gpt2_folder), a_batch(rows=5, longest=5)
    policy.packs = packs
    rows_are_as_alone(policy, batch, real_logprobs)
    rows_are_as_alone(
        policy, batch, lambda *given: left_padded(*given, positions=True)
    )  # what the planted ones do wrong
    caught(rows_are_as_alone, policy, batch, left_padded)
    caught(rows_are_as_alone, policy, batch, lambda *given: left_padded(*given, positions=True, shift=-1))
    caught(rows_are_as_alone, policy, batch, run_together)


# --- 13, 15, 24: which tokens are trained ---


def every_token_once(policy, batch, lengths):
    assert lengths(policy, batch) == [len(tokens) for tokens in batch.tokens_B_T]


def test_13_masks_come_from_lengths(gpt2_folder, load):
    policy, batch = load(gpt2_folder), a_batch(masked=False)
    assert policy.pad_id in policy.eos_ids
    every_token_once(policy, batch, lambda p, b: p.supervised_logprobs(b).lengths)
    caught(every_token_once, policy, batch, lambda p, b: [sum(x != p.pad_id for x in row) for row in b.tokens_B_T])


def the_end_moves(policy, batch):
    assert gradient(policy, algorithm_of(spec_of("sft")), batch).abs().max() > 1e-5


def test_15_the_end_is_trained(tiny_folder, load):
    policy = load(tiny_folder)
    ends = SupervisedBatch([[3], [4, 5]], [[1], [1]], [1.0, 1.0], 2.0)
    the_end_moves(policy, ends)
    caught(the_end_moves, policy, replace(ends, trained_B_T=[[False], [False]]))


def nothing_is_zero(logprobs, weight):
    """Σ over no tokens is 0 with a gradient of zeros; 0/0 would end in NaN."""
    loss = -(logprobs.sum()) / weight
    assert torch.isfinite(loss)


def test_24_no_trained_token_gives_zero_and_no_nan(tiny_folder, load):
    policy = load(tiny_folder)
    batch = SupervisedBatch([[3]], [[5, 1]], [1.0], 7.0, [[False, False]])  # a piece of a step in which others train
    flat = policy.supervised_logprobs(batch)
    nothing_is_zero(flat.logprobs, batch.weight_in_step)
    assert gradient(policy, algorithm_of(spec_of("sft")), batch).abs().max() == 0
    assert batch.token_count == 0  # by which a whole step without any is known
    caught(nothing_is_zero, flat.logprobs, torch.tensor(float(flat.logprobs.numel())))


def padding_may_say_anything(reduce):
    logprobs = torch.tensor([[-1.0, -2.0, math.nan], [-3.0, -math.inf, math.nan]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert float(reduce(logprobs, mask)) == pytest.approx(-6.0)


def test_23_what_is_masked_is_never_multiplied():
    padding_may_say_anything(
        lambda logprobs, mask: logprobs[mask].sum()
    )  # what `supervised` and `forward` do: they select
    caught(padding_may_say_anything, lambda logprobs, mask: (logprobs * mask).sum())


# --- 14, 16, 17: from rows to ids ---

VOCABULARY = {"<bos>": 0, "<eos>": 1, "<end>": 2, "n": 3, "nn": 4, "u": 5, "a": 6, "x": 7, "y": 8}
TEMPLATE = (
    "<bos> {% for m in messages %}{{ m.role[0] }} n{{ m.content }} {% if m.role == 'assistant' %}<end> n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a n{% endif %}"
)
PAIR = {
    "prompt": [{"role": "user", "content": " x"}],
    "chosen": [
        {"role": "assistant", "content": "n x"}
    ],  # its first letter and the prompt's last are one token of the whole
    "rejected": [{"role": "assistant", "content": " y"}],
}


@pytest.fixture
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(VOCABULARY, [("n", "n")]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", additional_special_tokens=["<end>"]
    )
    found.chat_template = TEMPLATE
    return found


def turns(messages):
    return DemonstrationRow.model_validate({"messages": messages})


def one_end(tokenizer, encode):
    _, completion = encode(tokenizer, turns([*PAIR["prompt"], *PAIR["rejected"]]))
    assert tokenizer.convert_ids_to_tokens(completion)[-1] == "<end>"
    assert sum(token in (1, 2) for token in completion) == 1


def test_14_any_of_the_end_tokens_ends_an_answer(tokenizer):
    one_end(tokenizer, lambda tok, row: encode_demonstration(tok, row, [1, 2]))
    caught(one_end, tokenizer, lambda tok, row: encode_demonstration(tok, row, [tok.eos_token_id]))


def one_begin(tokenizer, prompt_of, completion_of):
    for prompt in ("x y", turns([*PAIR["prompt"], *PAIR["rejected"]]).messages[:1]):
        assert (prompt_of(tokenizer, prompt) + completion_of(tokenizer, "x y")).count(0) == 1


def test_16_a_row_begins_once(tokenizer):
    def prompt_of(tok, prompt):
        return encode_prompt(tok, prompt, [1, 2])

    def completion_of(tok, text):
        return encode_demonstration(tok, DemonstrationRow(prompt="x", completion=text), [1, 2])[1]

    def written_twice(tok, prompt):
        if isinstance(prompt, str):
            return encode_prompt(tok, prompt, [1, 2])
        messages = [{"role": m.role, "content": m.content} for m in prompt]
        return tok(tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))["input_ids"]

    one_begin(tokenizer, prompt_of, completion_of)
    caught(one_begin, tokenizer, written_twice, completion_of)
    caught(one_begin, tokenizer, prompt_of, lambda tok, text: tok(text)["input_ids"])


def nothing_lost(tokenizer, encode):
    prompt, *sides = encode(tokenizer, PreferenceRow.model_validate(PAIR))
    assert prompt == encode_prompt(
        tokenizer, PreferenceRow.model_validate(PAIR).prompt, [1, 2]
    )  # what sampling starts from
    texts = ["".join(tokenizer.convert_ids_to_tokens([*prompt, *side])) for side in sides]
    assert texts == ["<bos>unxannx<end>", "<bos>unxany<end>"]


def test_17_pairs_keep_their_prompt_and_every_token(tokenizer):
    def real(tok, row):
        return encode_preference(tok, row, [1, 2])

    def cut_by_length(tok, row):
        found = []
        for side in (row.chosen, row.rejected):
            messages = [{"role": m.role, "content": m.content} for m in (*row.prompt, *side)]
            whole = tok.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            found.append(whole[len(real(tok, row)[0]) : whole.index(2) + 1])
        return real(tok, row)[0], *found

    nothing_lost(tokenizer, real)
    caught(nothing_lost, tokenizer, cut_by_length)
    caught(
        nothing_lost, tokenizer, lambda tok, row: [ids if k == 0 else [*ids, 1] for k, ids in enumerate(real(tok, row))]
    )
