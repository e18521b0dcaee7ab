"""The loss on rows that are held out: by its definition, before the first step and after, as a yardstick and as a stop."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from service.domain.job_state import JobFailure
from tests.support.training import HELD_OUT, PAIRS, held_out_of, run_of, spec_of
from workers.child import best_checkpoint


def token_losses(policy, prompt, tokens):
    """−log π of each token of one row alone, from the model's own logits."""
    logits = policy.model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0].detach().double()
    logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [-float(logp[t, token]) for t, token in enumerate(tokens)]


@pytest.mark.parametrize("budget", [8, 10_000])
def test_the_loss_of_demonstrations_is_their_weighted_token_mean_and_trains_nothing(tiny_folder, load, budget):
    policy = load(tiny_folder, budget=budget)
    run = run_of(policy, spec_of("sft"), held_out=True)
    metrics = run.held_out.run(0)
    losses = [token_losses(policy, row.prompt, row.completion) for row in HELD_OUT["sft"]]
    weights = [row.weight for row in HELD_OUT["sft"]]
    total = math.fsum(w * sum(of) for w, of in zip(weights, losses, strict=True))
    assert metrics["evaluation.loss"] == pytest.approx(
        total / math.fsum(w * len(of) for w, of in zip(weights, losses, strict=True)), abs=1e-6
    )
    assert metrics["evaluation.tokens"] == sum(len(of) for of in losses)
    means = {row.id: sum(of) / len(of) for row, of in zip(HELD_OUT["sft"], losses, strict=True)}
    assert run.held_out.by_row == pytest.approx(means, abs=1e-6)
    assert all(p.grad is None for p in policy.parameters())


def test_only_trained_tokens_count(tiny_folder, load):
    policy = load(tiny_folder)
    row = replace(HELD_OUT["sft"][0], completion=[6, 7, 8, 1], trained=[False, True, False, True])
    run = run_of(policy, spec_of("sft"))
    losses = token_losses(policy, row.prompt, row.completion)
    found = held_out_of(run, [row]).run(0)
    assert found["evaluation.loss"] == pytest.approx((losses[1] + losses[3]) / 2, abs=1e-6)
    assert found["evaluation.tokens"] == 2


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_dpo_is_its_own_reference_at_first_and_compared_with_it_ever_after(tiny_folder, load, adapter):
    spec = spec_of("dpo", adapter=adapter, training={"steps": 4, "learning_rate": 0.01})
    policy = load(tiny_folder, adapter=spec.adapter)
    pairs = HELD_OUT["preferences"]
    before = [[sum(token_losses(policy, p.prompt, side)) for side in (p.chosen, p.rejected)] for p in pairs]
    run = run_of(policy, spec, held_out=True)
    run.go()
    found = run.recorder.metric
    assert set(found["evaluation.loss"]) == {0, 2, 4}
    assert found["evaluation.loss"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert found["evaluation.accuracy"][0] == 0.5
    assert found["evaluation.reward_margin"][0] == pytest.approx(0, abs=1e-5)
    after = [[sum(token_losses(policy, p.prompt, side)) for side in (p.chosen, p.rejected)] for p in pairs]
    deltas = [(b[0] - a[0]) - (b[1] - a[1]) for b, a in zip(before, after, strict=True)]
    losses = [math.log1p(math.exp(-0.1 * delta)) for delta in deltas]
    assert found["evaluation.loss"][4] == pytest.approx(sum(losses) / 5, abs=1e-5)
    assert found["evaluation.reward_margin"][4] == pytest.approx(0.1 * sum(deltas) / 5, abs=1e-4)
    assert found["evaluation.accuracy"][4] == sum(delta > 0 for delta in deltas) / 5


def test_a_reward_model_has_a_loss_too(tiny_folder, load_reward):
    run = run_of(load_reward(tiny_folder), spec_of("reward_model"), held_out=True)
    run.go()
    assert set(run.recorder.metric["evaluation.loss"]) == {0, 2, 4, 5}
    with torch.no_grad():
        run.policy.model.score.weight.zero_()
    assert run.held_out.run(6)["evaluation.loss"] == pytest.approx(math.log(2), abs=1e-6)


def the_other_way_round(kind):
    """Held-out rows that are made worse by what the job learns: the pairs it trains on, swapped."""
    if kind == "sft":
        return [replace(row, id=f"far{k}", completion=[20, 21, 22, 20]) for k, row in enumerate(HELD_OUT["sft"])]
    return [replace(p, id=f"swapped{p.id}", chosen=p.rejected, rejected=p.chosen) for p in PAIRS]


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward_model"])
def test_a_loss_that_rises_for_certain_stops_the_job_if_it_is_asked_to(tiny_folder, load, load_reward, kind):
    name = "demonstrations" if kind == "sft" else "preferences"
    for wished in ("continue", "stop"):
        policy = (load_reward if kind == "reward_model" else load)(tiny_folder)
        evaluation = {name: "ds_1", "every_steps": 4, "on_regression": wished}
        spec = spec_of(kind, training={"steps": 16, "learning_rate": 0.01}, evaluation=evaluation)
        saved = []
        run = run_of(policy, spec, save=lambda state, to=saved: to.append(state.step))
        run.held_out = held_out_of(run, the_other_way_round(kind), every_steps=4)
        if wished == "continue":
            run.go()
            assert run.state.step == 16
            continue
        with pytest.raises(JobFailure, match="held-out loss got worse: ") as caught:
            run.go()
        assert caught.value.code == "regression"
        assert saved == [run.state.step]
        losses = run.recorder.metric["evaluation.loss"]
        assert losses[run.state.step] > min(losses.values())


def test_the_best_checkpoint_has_the_lowest_loss_unless_plain_reward_was_measured():
    def checkpoint(step, **metrics):
        return SimpleNamespace(step=step, metrics={f"evaluation.{name}": value for name, value in metrics.items()})

    names = ("evaluation.plain_reward", "evaluation.loss")
    listed = [checkpoint(1, loss=0.5), checkpoint(2, loss=0.25), checkpoint(3, loss=0.25), checkpoint(4, loss=0.75)]
    assert best_checkpoint(listed, names).step == 3
    listed.append(checkpoint(5, loss=0.9, plain_reward=0.1))
    assert best_checkpoint(listed, names).step == 5
    assert best_checkpoint([checkpoint(1)], names) is None


@pytest.mark.parametrize(
    ("kind", "evaluation", "place", "said"),
    [
        (
            "sft",
            {"preferences": "ds_1"},
            ("preferences",),
            "sft is evaluated on prompts or demonstrations, not on preferences",
        ),
        ("dpo", {"demonstrations": "ds_1"}, ("demonstrations",), "dpo is evaluated on prompts or preferences"),
        (
            "grape",
            {"demonstrations": "ds_1"},
            ("demonstrations",),
            "grape is evaluated on prompts, not on demonstrations",
        ),
        ("reward_model", {"prompts": "ds_1"}, ("prompts",), "samples nothing"),
        ("reward_model", {"demonstrations": "ds_1"}, ("demonstrations",), "reward_model is evaluated on preferences"),
        ("sft", {"demonstrations": "ds_0"}, ("demonstrations",), "the ones that are trained on"),
        ("sft", {}, ("prompts",), "say what is held out: prompts or demonstrations"),
        ("sft", {"prompts": "ds_1"}, ("rubric",), "needs a rubric"),
        ("sft", {"demonstrations": "ds_1", "samples": 2}, ("samples",), "is for prompts"),
        ("dpo", {"preferences": "ds_1", "rubric": {"id": "rub_0"}}, ("rubric",), "is for prompts"),
        ("dpo", {"preferences": "ds_1", "temperature": 1.0}, ("temperature",), "is for prompts"),
    ],
)
def test_what_does_not_fit_is_refused_in_its_place(kind, evaluation, place, said):
    with pytest.raises(ValidationError, match=said) as caught:
        spec_of(kind, evaluation=evaluation)
    assert any(error["loc"][-2:] == ("evaluation", *place) for error in caught.value.errors())


@pytest.mark.parametrize("option", [{"held_out": 0.2}, {"evaluate_every_steps": 3}])
def test_a_reward_model_holds_out_in_one_way(option):
    with pytest.raises(ValidationError, match=r"leave .* out, or evaluation\.preferences") as caught:
        spec_of("reward_model", algorithm=option, evaluation={"preferences": "ds_1"})
    (error,) = caught.value.errors()
    assert error["loc"] == ("algorithm", *option)
    alone = spec_of("reward_model", evaluation={"preferences": "ds_1"})
    assert alone.algorithm.held_out is None
    assert type(alone).model_validate(alone.model_dump(mode="json")) == alone
    assert spec_of("reward_model").algorithm.held_out == 0.1
    assert spec_of("reward_model", algorithm=option).algorithm.held_out == option.get("held_out", 0.1)


def test_prompts_and_rows_may_stand_together_and_judges_of_rows_alone_need_no_budget():
    both = {"prompts": "ds_1", "demonstrations": "ds_2", "rubric": {"id": "rub_0"}}
    assert spec_of("sft", evaluation=both).evaluation.rows == "demonstrations"
    with pytest.raises(ValidationError, match="no judge is asked"):
        spec_of("sft", evaluation={"demonstrations": "ds_2"}, limits={"judge_calls": 5})
