"""SFT, DPO and reward models against TRL's trainers: loss and gradient of one optimizer step, in float32."""

import pytest

from tests.support.models import make_reward_model
from tests.support.peer import MARKS, assert_same, causal_model, disturb, loss_and_gradient, text_of, trained
from tests.support.training import algorithm_of, spec_of
from workers.algorithms.base import Preference, pairs_of
from workers.algorithms.dpo import sums_of
from workers.types import SupervisedBatch

pytestmark = MARKS

ROWS = [
    ([3, 4, 5], [6, 7, 1]),
    ([8], [9, 10, 11, 12, 13, 1]),
    ([4, 4], [1]),
    ([20, 21, 22, 23], [5, 5, 6, 7, 8, 9, 10, 1]),
    ([15, 3], [16, 17, 1]),
    ([28], [27, 26, 25, 24, 1]),
]
PAIRS = [
    Preference("p0", [3, 4, 5], [6, 7, 1], [8, 1], 0.0),
    Preference("p1", [9], [10, 11, 12, 13, 1], [14, 15, 16, 1], 0.5),
    Preference("p2", [4, 4], [1], [17, 18, 19, 20, 21, 1], 1.0),
    Preference("p3", [22, 23, 24], [5, 6, 1], [7, 8, 9, 1], 0.25),
]


@pytest.mark.parametrize("microbatches", [1, 3])
def test_sft_is_the_mean_over_completion_tokens_of_the_step(tiny_folder, load, tmp_path, microbatches):
    """TRL's loss_type "nll": the sum over trained tokens divided by the items of the whole accumulation window."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": p + c, "completion_mask": [0] * len(p) + [1] * len(c)} for p, c in ROWS]
    policy = load(tiny_folder, budget=10_000 if microbatches == 1 else 16)
    step = trained(
        SFTTrainer, causal_model(tiny_folder), Dataset.from_list(rows), policy.tokenizer, SFTConfig, tmp_path,
        per_device_train_batch_size=len(ROWS) // microbatches, gradient_accumulation_steps=microbatches,
        completion_only_loss=True, loss_type="nll",
    )[0]  # fmt: skip
    tokens = sum(len(completion) for _, completion in ROWS)
    batch = SupervisedBatch([p for p, _ in ROWS], [c for _, c in ROWS], [1.0] * len(ROWS), float(tokens))
    loss, gradient, _ = loss_and_gradient(policy, algorithm_of(spec_of("sft")), batch)
    assert_same(step, loss, gradient)


DPO = [
    # TRL's loss type, our config, TRL's options
    pytest.param("sigmoid", {"loss": "sigmoid"}, {}, id="sigmoid"),
    pytest.param("hinge", {"loss": "hinge"}, {}, id="hinge"),
    pytest.param("ipo", {"loss": "ipo"}, {}, id="ipo-per_token"),
    pytest.param("sigmoid_norm", {"loss": "sigmoid_norm"}, {}, id="sigmoid_norm-per_token"),
    pytest.param(
        "robust", {"loss": "robust", "label_smoothing": 0.2}, {"label_smoothing": 0.2}, id="robust-label_smoothing"
    ),
    # TRL's sigmoid takes no smoothing any more; on one pair its "aot" is that formula, because sorting one pair does nothing.
    pytest.param(
        "aot",
        {"loss": "sigmoid", "label_smoothing": 0.2},
        {"label_smoothing": 0.2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": len(PAIRS)},
        id="sigmoid-label_smoothing",
    ),
]


@pytest.mark.parametrize("beta", [0.1, 0.6])
@pytest.mark.parametrize(("loss_type", "ours", "options"), DPO)
def test_dpo(tiny_folder, load, tmp_path, loss_type, ours, options, beta):
    """The reference is the model in the folder, the policy has moved away from it; the mean over pairs of the step."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": text_of(p.prompt), "chosen": text_of(p.chosen), "rejected": text_of(p.rejected)} for p in PAIRS]
    policy = load(tiny_folder, budget=40)
    given = {"per_device_train_batch_size": len(PAIRS), "loss_type": [loss_type], "beta": beta, **options}
    moved = disturb(causal_model(tiny_folder), scale=0.1)
    step = trained(DPOTrainer, moved, Dataset.from_list(rows), policy.tokenizer, DPOConfig, tmp_path, **given)[0]
    sums = sums_of(policy.reference_pair_logprobs(pairs_of(PAIRS))).tolist()
    reference = {row.id: pair for row, pair in zip(PAIRS, zip(sums[0::2], sums[1::2], strict=True), strict=True)}
    disturb(policy.model, scale=0.1)
    algorithm = algorithm_of(spec_of("dpo", algorithm={"beta": beta, **ours}))
    loss, gradient, _ = loss_and_gradient(policy, algorithm, pairs_of(PAIRS, reference))
    assert_same(step, loss, gradient)


@pytest.mark.parametrize("centring", [0.0, 0.05])
@pytest.mark.parametrize("margins", [False, True])
def test_reward_models(tiny_folder, load_reward, tmp_path, centring, margins):
    """−log σ(r_chosen − r_rejected − margin) + coefficient·(r_chosen + r_rejected)², the mean over pairs of the step."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    folder = make_reward_model(tiny_folder, tmp_path / "reward", seed=5)
    rows = [{"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected} for p in PAIRS]
    if margins:
        rows = [{**row, "margin": p.margin} for row, p in zip(rows, PAIRS, strict=True)]
    policy = load_reward(folder, budget=40)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    step = trained(
        RewardTrainer, model, Dataset.from_list(rows), policy.tokenizer, RewardConfig, tmp_path,
        per_device_train_batch_size=len(PAIRS), center_rewards_coefficient=centring or None,
    )[0]  # fmt: skip
    algorithm = algorithm_of(spec_of("reward_model", algorithm={"centring": centring, "use_margins": margins}))
    loss, gradient, _ = loss_and_gradient(policy, algorithm, pairs_of(PAIRS))
    assert_same(step, loss, gradient)
