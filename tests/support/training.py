"""The loop with graders and recorders handed in."""

import torch

from service.domain.grade import Cell
from service.domain.job import JobSpec, resolved
from service.domain.rubric import DEFAULT_AGGREGATION
from service.domain.scoring import CriterionWeight
from workers.advantages.group import group_advantages
from workers.algorithms import ALGORITHMS
from workers.algorithms.base import Demonstration, Preference
from workers.training.demonstration_evaluation import DemonstrationEvaluation
from workers.training.environment import Rollouts, TrainingEnvironment
from workers.training.evaluation import Evaluation
from workers.training.loop import Run
from workers.training.optim import build_optimizer
from workers.training.pair_evaluation import PairEvaluation
from workers.training.ports import Interrupted
from workers.training.rounds import Rounds
from workers.training.state import TrainerState
from workers.types import Prompt

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

    def __init__(self, fails=lambda step, index: False, criteria=None):
        self.fails, self.forgotten = fails, []
        self.criteria = criteria or CRITERIA

    def start(self, purpose, step):
        outer = self

        class Grading:
            def submit(self, group):
                group.criteria = outer.criteria
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


DATA = {"sft": "demonstrations", "dpo": "preferences", "reward_model": "preferences"}
PAIRS = [Preference(f"p{k}", [3 + k], [5 + k, 6, 1], [7, 8 + k, 9, 1][: 2 + k % 3], 0.0) for k in range(8)]


def spec_of(kind="grape", **changes):
    body = {
        "algorithm": {"type": kind, **changes.pop("algorithm", {})},
        "policy": {"model": "mdl_0"},
        "data": {DATA.get(kind, "prompts"): "ds_0"},
        "rollout": {"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 8},
        "training": {"steps": 5, "learning_rate": None if kind == "trpo" else 0.01, **changes.pop("training", {})},
        **changes,
    }
    if kind not in DATA:
        body["rubric"] = {"id": "rub_0"}
    spec = resolved(JobSpec.model_validate(body))
    if kind in ("grape", "grpo"):
        aggregation = spec.algorithm.aggregation.over(DEFAULT_AGGREGATION)
        if kind == "grpo":
            aggregation = aggregation.model_copy(update={"weighting": "uniform"})
        spec = spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": aggregation})})
    return spec


def algorithm_of(spec):
    return ALGORITHMS[spec.algorithm.type](spec)


HELD_OUT = {
    "sft": [Demonstration(f"held{k}", [3 + k, 4], [6 + k, 7, 1][k % 2 :], 1.0 + k / 2) for k in range(5)],
    "preferences": [
        Preference(f"held{k}", [10 + k], [5 + k, 6, 1], [7, 8 + k, 9, 1][: 2 + k % 3], 0.0) for k in range(5)
    ],
}


def held_out_of(run, rows=None, every_steps=2):
    """What gives the held-out loss of a run of sft, dpo or a reward model."""
    common = (run.recorder, run.control)
    if run.spec.algorithm.type == "sft":
        return DemonstrationEvaluation(run.policy, *common, rows or HELD_OUT["sft"], every_steps)
    return PairEvaluation(
        run.policy, run.algorithm, run.environment, *common, rows or HELD_OUT["preferences"], every_steps
    )


def run_of(
    policy, spec, *, state=None, control=None, grader=None, save=None, optimizer=None, evaluate=False, held_out=False
):
    recorder, control, grader = Recorder(), control or Control(), grader or Grader()
    state = state or TrainerState()
    algorithm = algorithm_of(spec)
    rollouts = Rollouts(policy, grader, control, spec.training.seed, spec.rollout.max_completion_tokens)
    environment = TrainingEnvironment(
        spec, state, recorder, prompts=PROMPTS, rollouts=rollouts, max_null_share=0.1,
        demonstrations=[Demonstration(f"d{k}", [3 + k], [5 + k, 6, 1], 1.0 + k) for k in range(10)],
        preferences=PAIRS, steps=spec.training.steps, check=control.check,
    )  # fmt: skip
    evaluation = (
        Evaluation(rollouts, recorder, PROMPTS if evaluate == "all" else PROMPTS[:2], 0.0, 1) if evaluate else None
    )
    optimizer = optimizer or build_optimizer(policy, spec.training, algorithm.value_learning_rate)
    run = Run(
        spec=spec, steps=spec.training.steps, algorithm=algorithm, policy=policy, optimizer=optimizer,
        environment=environment, evaluation=evaluation,
        state=state, recorder=recorder, control=control, save=save or (lambda state: None),
        rounds=Rounds.of(spec, algorithm, policy, optimizer),
    )  # fmt: skip
    if held_out:
        run.held_out = held_out_of(run)
    return run


def gradient(policy, algorithm, batch):
    """The summed gradient of a batch, before any step."""
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
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


def equal_scores(group):
    """Make a group's cells all alike: no spread."""
    group.cells = [dict(group.cells[0]) for _ in group.cells]


def scored_again(algorithm, group):
    """The group's numbers, from its cells as they are now."""
    return group_advantages(group.criteria, group.cells, algorithm.options)
