"""Bugs that other trainers really had (reference/training.md §2d), planted into references, reward models and resumes.

| bug | check | planted |
|---|---|---|
| 19 dropout where log-probabilities are compared | `starts_at_ln_2` | a policy in training mode |
| 20 the reference of a continued adapter; computed after training | `starts_at_ln_2`, `keeps_its_distance` | the bare base; forgotten |
| 27 reward read at the wrong place; head not saved; head before the seed | `as_alone`, `says_the_same`, `seeded` | three readers; … |
| 31 schedule and data begin anew after a resume | `goes_on` | a fresh schedule; a fresh cursor |

The form, and the other bugs of data: `test_planted_bugs_data.py`.
"""

import math

import pytest
import torch

from service.domain.job import LoraSpec
from tests.support.training import PAIRS, algorithm_of, run_of, spec_of
from workers.algorithms.base import Preference, pairs_of
from workers.algorithms.dpo import sums_of
from workers.policy.forward import pad_right
from workers.policy.loading import ModelFiles, load_policy
from workers.seeds import ShuffledCursor
from workers.training.optim import learning_rate

LORA = LoraSpec(type="lora", r=4)


def caught(check, *given):
    with pytest.raises(AssertionError):
        check(*given)


# --- 19, 20: the reference ---


def starts_at_ln_2(policy, reference):
    batch = pairs_of(PAIRS, reference(policy))
    loss = algorithm_of(spec_of("dpo")).loss(policy, batch).loss
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)


def reference_of(policy, by=None):
    sums = sums_of((by or policy).reference_pair_logprobs(pairs_of(PAIRS))).tolist()
    return dict(zip((row.id for row in PAIRS), zip(sums[0::2], sums[1::2], strict=True), strict=True))


def test_19_no_dropout_where_log_probabilities_are_compared(gpt2_folder, load):
    policy = load(gpt2_folder)
    assert policy.model.config.resid_pdrop > 0
    starts_at_ln_2(policy, reference_of)
    policy.model.train()
    caught(starts_at_ln_2, policy, reference_of)


def test_20_the_reference_of_a_continued_adapter_is_the_adapter(tiny_folder, load, tmp_path):
    first = load(tiny_folder, adapter=LORA)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    first.save(tmp_path)
    files = ModelFiles("mdl_1", tmp_path, [], base=ModelFiles("mdl_0", tiny_folder, []))
    second = load_policy(files, adapter=LORA, precision="fp32", budget=10_000, seed=1, reference=False)
    starts_at_ln_2(second, reference_of)
    caught(starts_at_ln_2, second, lambda policy: reference_of(policy, by=load(tiny_folder)))


def keeps_its_distance(run, before):
    """After a resume the loss is that of the moved policy, not ln 2 again."""
    run.algorithm.prepare(run.policy, run.environment)
    loss = run.algorithm.loss(run.policy, pairs_of(PAIRS, run.state.reference)).loss
    assert float(loss.detach()) == pytest.approx(before, abs=1e-6)


def test_20_the_reference_is_not_computed_again_after_training(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of("dpo", training={"steps": 5, "batch_size": 8}))
    run.go()
    before = float(run.algorithm.loss(policy, pairs_of(PAIRS, run.state.reference)).loss.detach())
    assert before < 0.68
    keeps_its_distance(run, before)
    run.state.reference.clear()
    caught(keeps_its_distance, run, before)


# --- 27: reward models ---


def as_alone(policy, rewards):
    batch = pairs_of([*PAIRS, Preference("long", [3, 4, 5, 6], [8, 9, 10, 1], [8, 1], 0.0)])
    backbone = getattr(policy.model, policy.model.base_model_prefix)
    expected = [
        policy.model.score(
            backbone(input_ids=torch.tensor([[*batch.prompts_P_T[p], *tokens]])).last_hidden_state[0, -1]
        ).item()
        for p, tokens in zip(batch.prompt_of_B, batch.completions_B_T, strict=True)
    ]
    assert rewards(policy, batch) == pytest.approx(expected, abs=1e-5)


def read_at(place):
    def rewards(policy, batch):
        rows = [[*batch.prompts_P_T[p], *t] for p, t in zip(batch.prompt_of_B, batch.completions_B_T, strict=True)]
        ids, mask = pad_right(rows, policy.pad_id, policy.device)
        hidden = getattr(policy.model, policy.model.base_model_prefix)(
            input_ids=ids, attention_mask=mask
        ).last_hidden_state
        ends = place(ids, mask, policy.pad_id)
        return policy.model.score(hidden[torch.arange(len(rows)), ends])[:, 0].tolist()

    return rewards


def test_27_a_reward_is_read_after_the_last_token(gpt2_folder, load_reward):
    policy = load_reward(gpt2_folder)
    as_alone(policy, lambda policy, batch: policy.pair_rewards(batch).tolist())
    as_alone(policy, read_at(lambda ids, mask, pad: mask.sum(-1) - 1))
    caught(
        as_alone, policy, read_at(lambda ids, mask, pad: torch.full((len(ids),), ids.shape[1] - 1))
    )  # the last column
    caught(as_alone, policy, read_at(lambda ids, mask, pad: (ids != pad).long().cumsum(-1).argmax(-1)))  # pad is EOS


def says_the_same(policy, folder, load_reward):
    with torch.no_grad():
        before = policy.pair_rewards(pairs_of(PAIRS)).tolist()
        again = load_reward(folder, policy.is_adapter).pair_rewards(pairs_of(PAIRS)).tolist()
    assert again == pytest.approx(before, abs=1e-6)


def test_27_the_head_is_saved_with_an_adapter_and_comes_from_the_seed(tiny_folder, load_reward, tmp_path):
    from safetensors.torch import load_file, save_file

    policy = load_reward(tiny_folder, adapter=LORA)
    run_of(
        policy, spec_of("reward_model", adapter=LORA.model_dump(), training={"steps": 3, "learning_rate": 0.05})
    ).go()
    policy.save(tmp_path)

    def again(folder, adapter):
        return load_reward(tiny_folder, adapter=LORA, resume=folder, seed=9)

    says_the_same(policy, tmp_path, again)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(
        {k: torch.zeros_like(v) if "score" in k else v for k, v in tensors.items()}, path
    )  # a head that was not saved
    caught(says_the_same, policy, tmp_path, again)


def seeded(make):
    torch.manual_seed(123)
    first = make().model.score.weight
    torch.manual_seed(321)
    assert torch.equal(first, make().model.score.weight)


def test_27_the_head_comes_from_the_jobs_seed(tiny_folder, load_reward):
    from transformers import AutoModelForSequenceClassification

    class Unseeded:
        def __init__(self):
            self.model = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)

    seeded(lambda: load_reward(tiny_folder, seed=0))
    caught(seeded, Unseeded)


# --- 31: a resume goes on ---


def goes_on(rates, rows):
    spec = spec_of("sft", training={"steps": 6, "learning_rate": 1.0, "schedule": "cosine", "warmup_steps": 2}).training
    straight = [learning_rate(spec, step, 6) for step in range(6)]
    assert rates(spec) == straight
    assert rows() == ShuffledCursor(10, 0, "demonstrations").take(8)


def test_31_schedule_and_data_go_on_where_they_were():
    def rates(spec):
        return [learning_rate(spec, step, 6) for first, last in ((0, 3), (3, 6)) for step in range(first, last)]

    def rows(position=4):
        first = ShuffledCursor(10, 0, "demonstrations")
        return [*first.take(4), *ShuffledCursor(10, 0, "demonstrations", position=position).take(4)]

    goes_on(rates, rows)
    caught(goes_on, lambda spec: [learning_rate(spec, step, 6) for _ in range(2) for step in range(3)], rows)
    caught(goes_on, rates, lambda: rows(position=0))
