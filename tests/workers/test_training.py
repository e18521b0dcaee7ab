"""Algorithms and the loop on a tiny model, with graders and recorders handed in: what a step learns does not depend on how it
is cut, what is skipped changes nothing, and a stopped run goes on as if it had never stopped."""

import contextlib
import json

import pytest
import torch

from service.domain.grade import Cell
from service.domain.job import JobSpec, resolved
from service.domain.job_state import JobFailure
from service.domain.rubric import DEFAULT_AGGREGATION
from service.domain.scoring import CriterionWeight
from workers.algorithms import ALGORITHMS
from workers.algorithms.base import Demonstration
from workers.training.checkpoint import read_trainer_state, restore, write_checkpoint
from workers.training.environment import Rollouts, TrainingEnvironment
from workers.training.evaluation import Evaluation
from workers.training.loop import Run
from workers.training.optim import build_optimizer, learning_rate
from workers.training.ports import Interrupted, Suspended
from workers.training.seeds import ShuffledCursor, derive_seed
from workers.training.state import NULL_WINDOW, TrainerState
from workers.types import Completion, CompletionGroup, Prompt, SupervisedBatch

PROMPTS = [Prompt(f"ds:{k}", [3 + k, 4 + k], {"id": f"ds:{k}", "messages": []}) for k in range(6)]
CRITERIA = [CriterionWeight("even", 2.0, judged=False), CriterionWeight("said", 1.0)]


class Recorder:
    """Keeps what it is given."""

    def __init__(self):
        self.metric, self.events, self.groups, self.step = {}, [], [], 0

    def metrics(self, step, values):
        for name, value in values.items():
            self.metric.setdefault(name, {})[step] = value

    def progress(self, step):
        self.step = step

    def completions(self, step, purpose, groups):
        self.groups.append((step, purpose, groups))

    def event(self, kind, data):
        self.events.append((kind, data))


class Control:
    """Interrupts at the n-th check."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def check(self):
        self.count += 1
        if self.count == self.at:
            raise Interrupted("pause")


class Grader:
    """Grades by token ids; `fails(step)` says which judged cells come back null."""

    def __init__(self, fails=lambda step, index: False):
        self.fails, self.forgotten = fails, []

    def start(self, purpose, step):
        outer = self

        class Grading:
            def submit(self, group):
                group.cells = [outer.cells(step, i, c) for i, c in enumerate(group.completions)]

            def finish(self):
                pass

            def forget(self):
                outer.forgotten.append(step)

        return Grading()

    def cells(self, step, index, completion):
        even = sum(t % 2 == 0 for t in completion.tokens) / len(completion.tokens)
        said = {"criterion": "said", "grader": "judge"}
        if self.fails(step, index):
            cell = Cell(status="timeout", reason="too slow", **said)
        else:
            cell = Cell(
                status="ok",
                score=(len(completion.tokens) % 3) / 2,
                confidence=0.25 + 0.5 * even,
                confidence_source="verbal",
                **said,
            )
        return {
            "even": Cell(
                criterion="even", grader="regex", status="ok", score=even, confidence=1.0, confidence_source="verifier"
            ),
            "said": cell,
        }


def spec_of(kind="grape", **changes):
    body = {
        "algorithm": {"type": kind, **changes.pop("algorithm", {})},
        "policy": {"model": "mdl_0"},
        "data": {"prompts": "ds_0", "demonstrations": "ds_1"} if kind == "sft" else {"prompts": "ds_0"},
        "rollout": {"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 8},
        "training": {"steps": 5, "learning_rate": 0.01, **changes.pop("training", {})},
        **changes,
    }
    if kind != "sft":
        body["rubric"] = {"id": "rub_0"}
    spec = resolved(JobSpec.model_validate(body))
    if kind in ("grape", "grpo"):
        aggregation = spec.algorithm.aggregation.over(DEFAULT_AGGREGATION)
        if kind == "grpo":
            aggregation = aggregation.model_copy(update={"weighting": "uniform"})
        spec = spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": aggregation})})
    return spec


def algorithm_of(spec):
    return ALGORITHMS[spec.algorithm.type](spec, CRITERIA)


def run_of(policy, spec, *, state=None, control=None, grader=None, save=None, optimizer=None, evaluate=False):
    recorder, control, grader = Recorder(), control or Control(), grader or Grader()
    state = state or TrainerState()
    algorithm = algorithm_of(spec)
    rollouts = Rollouts(policy, grader, control, spec.training.seed, spec.rollout.max_completion_tokens)
    environment = TrainingEnvironment(
        spec, state, recorder, prompts=PROMPTS, rollouts=rollouts, max_null_share=0.1,
        demonstrations=[Demonstration(f"d{k}", [3 + k], [5 + k, 6, 1], 1.0 + k) for k in range(10)],
    )  # fmt: skip
    evaluation = Evaluation(rollouts, recorder, PROMPTS[:2], CRITERIA, 0.0, 1) if evaluate else None
    return Run(
        spec=spec, steps=spec.training.steps, algorithm=algorithm, policy=policy,
        optimizer=optimizer or build_optimizer(policy, spec.training), environment=environment, evaluation=evaluation,
        state=state, recorder=recorder, control=control, save=save or (lambda state: None),
    )  # fmt: skip


def gradient(policy, algorithm, batch):
    """The summed gradient of a batch, before any step."""
    policy.model.zero_grad()
    for piece in policy.microbatches(batch):
        algorithm.loss(policy, piece).loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def weights(policy):
    return torch.cat([p.detach().flatten().clone() for p in policy.parameters()])


def rollout(policy, spec, grader=None):
    """Groups of one step, scored."""
    run = run_of(policy, spec, grader=grader)
    run.algorithm.collect(run.environment)
    return run.algorithm, run.recorder.groups[0][2]


# --- what a step learns ---


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_does_not_depend_on_the_cut(tiny_folder, load, aggregation, ratio):
    spec = spec_of(algorithm={"objective": {"aggregation": aggregation, "ratio": ratio}, "kl": {"beta": 0.1}})
    policy = load(tiny_folder, reference=True)
    algorithm, groups = rollout(policy, spec)
    batch = algorithm.batch_of(groups)
    whole = gradient(policy, algorithm, batch)
    for budget in (12, 30, 60):
        policy.budget = budget
        assert len(policy.microbatches(batch)) > 1
        assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_the_gradient_of_sft_does_not_depend_on_the_cut(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    rows = [([3, 4], [5, 1]), ([6], [7, 8, 9, 10, 1]), ([3, 4, 5, 6], [1]), ([9], [9, 9, 1])]
    total = sum(w * len(t) for w, (_, t) in zip((1.0, 2.0, 0.5, 3.0), rows, strict=True))
    batch = SupervisedBatch([p for p, _ in rows], [t for _, t in rows], [1.0, 2.0, 0.5, 3.0], total)
    whole = gradient(policy, algorithm, batch)
    for budget in (3, 8, 12):
        policy.budget = budget
        assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_sft_is_the_weighted_token_mean_of_transformers_loss(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    batch = SupervisedBatch([[3, 4], [6]], [[5, 7, 1], [8, 1]], [1.0, 1.0], 5.0)
    ours = sum(float(algorithm.loss(policy, piece).loss.detach()) for piece in policy.microbatches(batch))
    losses = []
    for prompt, tokens in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + tokens])
        losses.append(policy.model(input_ids=torch.tensor([prompt + tokens]), labels=labels).loss.item() * len(tokens))
    assert ours == pytest.approx(sum(losses) / 5, abs=1e-6)


def test_the_end_token_is_trained(tiny_folder, load):
    policy, algorithm = load(tiny_folder), algorithm_of(spec_of("sft"))
    batch = SupervisedBatch([[3]], [[1]], [1.0], 1.0)
    before = float(policy.supervised_logprobs(batch).logprobs.detach())
    optimizer = build_optimizer(policy, spec_of("sft").training)
    algorithm.update(policy, batch, optimizer)
    assert float(policy.supervised_logprobs(batch).logprobs.detach()) > before


def equal_scores(group):
    """Make a group's cells all alike: no spread."""
    group.cells = [dict(group.cells[0]) for _ in group.cells]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_skipping_groups_without_signal_is_exact(tiny_folder, load, aggregation):
    spec = spec_of(algorithm={"objective": {"aggregation": aggregation}})
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec)
    equal_scores(groups[1])
    for group in groups:
        group.scored = algorithm_scored(algorithm, group)
    assert groups[1].scored.signal == "no_spread"
    skipped, kept = algorithm.batch_of(groups), algorithm.batch_of(groups, skip=False)
    assert len(skipped.tokens_B_T) == 8 < len(kept.tokens_B_T) == 12
    assert torch.allclose(gradient(policy, algorithm, skipped), gradient(policy, algorithm, kept), atol=1e-7)


def algorithm_scored(algorithm, group):
    from workers.advantages.group import group_advantages

    return group_advantages(algorithm.criteria, group.cells, algorithm.options, {})


def test_with_a_kl_penalty_nothing_is_skipped(tiny_folder, load):
    spec = spec_of(algorithm={"kl": {"beta": 0.1}})
    policy = load(tiny_folder, reference=True)
    algorithm, groups = rollout(policy, spec)
    for group in groups:
        equal_scores(group)
        group.scored = algorithm_scored(algorithm, group)
    batch = algorithm.batch_of(groups)
    assert len(batch.tokens_B_T) == 12
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert gradient(policy, algorithm, batch).abs().max() > 1e-6  # KL has a gradient though every advantage is 0


def test_who_left_the_group_is_in_no_denominator(tiny_folder, load):
    spec = spec_of(algorithm={"aggregation": {"min_coverage": 0.9}})
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec, grader=Grader(fails=lambda step, index: index == 2))
    batch = algorithm.batch_of(groups, skip=False)
    members = [c for g in groups for i, c in enumerate(g.completions) if i != 2]
    assert batch.tokens_in_step == sum(len(c.tokens) for c in members)
    assert batch.sequences_in_step == 9


def test_a_batch_without_anything_to_learn_moves_only_by_momentum(tiny_folder, load):
    spec = spec_of()
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec)
    for group in groups:
        equal_scores(group)
        group.scored = algorithm_scored(algorithm, group)
    optimizer = build_optimizer(policy, spec.training)
    before = weights(policy)
    report = algorithm.update(policy, algorithm.batch_of(groups), optimizer)
    assert report.metrics["loss"] == 0.0
    assert torch.equal(weights(policy), before)


def test_one_criterion_makes_grape_grpo_to_the_bit(tiny_folder, load):
    results = []
    for kind in ("grape", "grpo"):
        policy, spec = load(tiny_folder), spec_of(kind)
        run = run_of(policy, spec)
        run.algorithm.criteria = [CriterionWeight("said", 3.0)]
        run.go()
        results.append(weights(policy))
    assert torch.equal(*results)


def test_confidence_changes_what_is_learned(tiny_folder, load):
    results = []
    for kind in ("grape", "grpo"):
        policy = load(tiny_folder)
        run_of(policy, spec_of(kind)).go()
        results.append(weights(policy))
    assert not torch.equal(*results)


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_folder, load):
    policy, spec = load(tiny_folder), spec_of()
    algorithm, groups = rollout(policy, spec)
    batch = algorithm.batch_of(groups)
    batch.advantages_B[0] = float("nan")
    before = weights(policy)
    with pytest.raises(JobFailure) as caught:
        algorithm.update(policy, batch, build_optimizer(policy, spec.training))
    assert caught.value.code == "nonfinite_loss"
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize("kind", ["grape", "sft"])
def test_training_moves_its_own_objective(tiny_folder, load, kind):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(kind, training={"steps": 30, "learning_rate": 0.01}))
    run.go()
    name, sign = ("plain_reward", 1) if kind == "grape" else ("loss", -1)
    values = list(run.recorder.metric[name].values())
    assert sign * (sum(values[-5:]) - sum(values[:5])) / 5 > 0.15


# --- stopping and going on ---


def saver(folder, policy, optimizer, spec):
    def save(state):
        place = folder / f"step-{state.step}"
        if not place.exists():
            place.mkdir()
            job = {"id": "job_0", "spec": spec.model_dump(mode="json"), "resolved": {"policy": {"sha256": None}}}
            write_checkpoint(place, policy, optimizer, state, job)

    return save


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
@pytest.mark.parametrize(("kind", "inner_epochs"), [("grape", 1), ("grape", 2), ("sft", 1)])
@pytest.mark.parametrize("stop_at", [2, 9, 30])
def test_a_stopped_run_ends_with_the_same_bits(tiny_folder, load, tmp_path, kind, inner_epochs, stop_at, adapter):
    algorithm = {} if kind == "sft" else {"inner_epochs": inner_epochs}
    spec = spec_of(kind, algorithm=algorithm, adapter=adapter)
    straight = load(tiny_folder, adapter=spec.adapter)
    whole = run_of(straight, spec, evaluate=True)
    whole.go()

    policy = load(tiny_folder, adapter=spec.adapter)
    optimizer = build_optimizer(policy, spec.training)
    first = run_of(policy, spec, control=Control(stop_at), optimizer=optimizer, evaluate=True,
                   save=saver(tmp_path, policy, optimizer, spec))  # fmt: skip
    with contextlib.suppress(Interrupted):
        first.go()
    assert kind == "sft" or first.state.step < 5, "it was not stopped; the test proves nothing"
    folder = max(tmp_path.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    again = load(tiny_folder, adapter=spec.adapter, resume=folder)
    optimizer = build_optimizer(again, spec.training)
    restore(folder, again, optimizer)
    second = run_of(again, spec, state=read_trainer_state(folder), optimizer=optimizer, evaluate=True)
    second.go()
    assert torch.equal(weights(again), weights(straight))
    assert second.recorder.step in (0, 5)
    for name, values in second.recorder.metric.items():
        for step, value in values.items():
            if name not in ("seconds", "tokens_per_s"):
                assert whole.recorder.metric[name][step] == value, (name, step)
    merged = {**first.recorder.metric.get("loss", {}), **second.recorder.metric.get("loss", {})}
    assert merged == whole.recorder.metric["loss"]


def test_two_runs_with_one_seed_are_the_same_and_with_two_are_not(tiny_folder, load):
    results = []
    for seed in (0, 0, 1):
        policy = load(tiny_folder)
        run_of(policy, spec_of(training={"seed": seed})).go()
        results.append(weights(policy))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_checkpoints_load_with_plain_transformers(tiny_folder, load, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, spec = load(tiny_folder), spec_of()
    optimizer = build_optimizer(policy, spec.training)
    run_of(policy, spec, optimizer=optimizer, save=saver(tmp_path, policy, optimizer, spec)).go()
    folder = tmp_path / "step-5"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(loaded(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == policy.tokenizer("a b")["input_ids"]
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {f["path"] for f in manifest["files"]} == on_disk - {"manifest.json"}
    assert not [p for p in on_disk if p.endswith((".bin", ".pt", ".pkl", ".pth"))]
    state = json.loads((folder / "state" / "job.json").read_text())
    assert JobSpec.model_validate(state["spec"]) == spec


def test_adapter_checkpoints_load_with_plain_peft(tiny_folder, load, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = spec_of(adapter={"type": "lora", "r": 4})
    policy = load(tiny_folder, adapter=spec.adapter)
    optimizer = build_optimizer(policy, spec.training)
    run_of(policy, spec, optimizer=optimizer, save=saver(tmp_path, policy, optimizer, spec)).go()
    folder = tmp_path / "step-5"
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.allclose(loaded(ids).logits, policy.model(ids).logits, atol=1e-6)
    assert str(tiny_folder) not in (folder / "adapter_config.json").read_text()


# --- judges that fail ---


def test_a_step_without_a_verdict_suspends_and_asks_again_later(tiny_folder, load):
    policy = load(tiny_folder)
    grader = Grader(fails=lambda step, index: step == 3)
    run = run_of(policy, spec_of(), grader=grader)
    with pytest.raises(Suspended, match=r"judge_error_rate.*too slow"):
        run.go()
    assert run.state.step == 2
    assert grader.forgotten == [3]
    assert run.state.cursors["prompts"] == 6  # the prompts of step 3 come again


def test_too_many_failures_over_the_window_suspend(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(training={"steps": 40}), grader=Grader(fails=lambda step, index: index == 0))
    with pytest.raises(Suspended, match="25% of the judge cells of the last 20 steps"):
        run.go()
    assert run.state.step == NULL_WINDOW - 1


def test_few_failures_go_on(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(
        policy, spec_of(training={"steps": 25}), grader=Grader(fails=lambda step, index: step % 5 == 0 and index == 0)
    )
    run.go()
    assert sum(run.recorder.metric["null_cells"].values()) == 15


# --- small parts ---


def test_the_order_of_the_data_is_the_seeds_and_complete():
    cursor = ShuffledCursor(7, 0, "prompts")
    first = cursor.take(7)
    assert sorted(first) == list(range(7))
    second = cursor.take(7)
    assert sorted(second) == list(range(7))
    assert first != second
    assert ShuffledCursor(7, 0, "prompts", position=5).take(4) == [*first[5:], *second[:2]]
    assert ShuffledCursor(7, 1, "prompts").take(7) != first
    assert derive_seed(0, "a", 12) != derive_seed(0, "a1", 2)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5]), ("cosine", [0.5, 1, 1, 0.853553, 0.5])],
)
def test_learning_rates(schedule, expected):
    spec = spec_of(training={"learning_rate": 1.0, "schedule": schedule, "warmup_steps": 2, "steps": 6}).training
    assert [learning_rate(spec, step, 6) for step in range(5)] == pytest.approx(expected, abs=1e-6)


def test_state_survives_json():
    state = TrainerState(step=3, cursors={"prompts": 4}, uses_left=0)
    state.confidence.add("a", [0.1, 0.2])
    state.null_shares.append(0.1)
    again = TrainerState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state


def test_groups_are_recorded_with_everything():
    group = CompletionGroup(PROMPTS[0], [Completion([4, 1], [-0.5, -0.25], "stop", "b")])
    assert group.scored is None
