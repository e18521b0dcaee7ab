"""Learning rates beside transformers' and torch's own schedules."""

import pytest
import torch
from pydantic import ValidationError
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR

from tests.support.training import spec_of
from workers.training.optim import learning_rate

PEAK, STEPS, WARM = 0.02, 40, 8

ALIKE = [
    ("constant", {}, "constant_with_warmup", {}),
    ("linear", {}, "linear", {}),
    ("cosine", {}, "cosine", {}),
    ("cosine", {"min_rate": 0.1}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("inverse_sqrt", {}, "inverse_sqrt", {}),
    ("polynomial", {"power": 2.0, "min_rate": 0.25}, "polynomial", {"power": 2.0, "lr_end": 0.25 * PEAK}),
    ("polynomial", {}, "polynomial", {"lr_end": 0.0}),
    *(
        (
            "wsd",
            {"decay_steps": 10, "min_rate": 0.05, "decay_shape": ours},
            "warmup_stable_decay",
            {"num_decay_steps": 10, "min_lr_ratio": 0.05, "decay_type": theirs},
        )
        for ours, theirs in (("linear", "linear"), ("cosine", "cosine"), ("one_minus_sqrt", "1-sqrt"))
    ),
]


def rates(schedule, options, warm=WARM, steps=STEPS):
    training = {"learning_rate": PEAK, "schedule": schedule, "warmup_steps": warm, "steps": steps, **options}
    spec = spec_of("sft", training=training).training
    return [learning_rate(spec, step, steps) for step in range(steps)]


def stepped(make, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warm", [0, WARM])
@pytest.mark.parametrize(("ours", "options", "theirs", "given"), ALIKE)
def test_rates_are_those_of_transformers(ours, options, theirs, given, warm):
    """Past the warm-up: theirs begins at 0, so that a first step teaches nothing, and ours at 1/warmup_steps."""
    from transformers import get_scheduler

    whole = {"num_training_steps": STEPS} if theirs not in ("constant_with_warmup", "inverse_sqrt") else {}
    peer = stepped(
        lambda optimizer: get_scheduler(theirs, optimizer, warm, whole.get("num_training_steps"), given or None)
    )
    own = rates(ours, options, warm)
    assert own[warm:] == pytest.approx(peer[warm:], rel=1e-9, abs=1e-15)
    assert own[:warm] == pytest.approx([PEAK * (k + 1) / WARM for k in range(warm)])


def test_rates_are_those_of_torch():
    cosine = stepped(lambda optimizer: CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.2 * PEAK))
    assert rates("cosine", {"min_rate": 0.2}, warm=0) == pytest.approx(cosine, rel=1e-6)
    polynomial = stepped(lambda optimizer: PolynomialLR(optimizer, total_iters=STEPS, power=3.0))
    assert rates("polynomial", {"power": 3.0}, warm=0) == pytest.approx(polynomial, rel=1e-6)


def test_without_a_number_a_tenth_of_the_steps_comes_down():
    assert rates("wsd", {}, warm=0)[-5:] == pytest.approx([PEAK * share for share in (1, 1, 0.75, 0.5, 0.25)])


@pytest.mark.parametrize(
    ("training", "place", "said"),
    [
        ({"schedule": "constant", "min_rate": 0.1}, "min_rate", "linear, cosine, polynomial and wsd"),
        ({"schedule": "inverse_sqrt", "min_rate": 0.1}, "min_rate", "comes down to no end"),
        ({"schedule": "cosine", "power": 2}, "power", "for the schedule 'polynomial'"),
        ({"schedule": "linear", "decay_steps": 3}, "decay_steps", "for the schedule 'wsd'"),
        ({"schedule": "cosine", "decay_shape": "linear"}, "decay_shape", "for the schedule 'wsd'"),
        ({"schedule": "wsd", "warmup_steps": 3, "decay_steps": 3, "steps": 5}, "decay_steps", "more than the 5 steps"),
        ({"warmup_steps": 5, "steps": 5}, "warmup_steps", "leaves none of the 5 at the full rate"),
    ],
)
def test_options_that_would_do_nothing_are_refused(training, place, said):
    with pytest.raises(ValidationError, match=said) as caught:
        spec_of("sft", training=training)
    assert any(error["loc"][-2:] == ("training", place) for error in caught.value.errors())
