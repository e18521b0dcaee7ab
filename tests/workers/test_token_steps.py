"""grape.md §6: every completion token gets exactly one step, and the advantage of it."""

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.grade import Cell, StepCell
from service.domain.scoring import CriterionWeight, mean, pool_steps, split_steps
from tests.support.training import Grader, gradient, rollout, run_of, spec_of
from workers.policy.steps import shared, steps_of_tokens
from workers.policy.tokenization import decode

CORPUS = [
    "Let x be 3.\n\nThen 2x = 6 — naïve, but true.\n\nSo the answer is 6! 🎉🎉",
    "日本語 text\n\nund Grüße",
    "a  b\n\n\n c\n",
]


@pytest.fixture(scope="module")
def bytewise():
    """A byte-level BPE tokenizer such as GPT-2's and Llama 3's, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


texts = st.text(alphabet="ab .\n=6é日🎉", max_size=60) | st.sampled_from(CORPUS)


@given(text=texts, end=st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_tokens_step_is_that_of_its_last_character(bytewise, text, end):
    """The tokenizers library says where each token lies; our answer is found from the ids alone."""
    encoded = bytewise(text, return_offsets_mapping=True, add_special_tokens=False)
    tokens, offsets = encoded["input_ids"], encoded["offset_mapping"]
    assert decode(bytewise, tokens, [0]) == text
    starts = [a for a, _ in split_steps(text, r"\n\s*\n\s*")]
    expected = [bisect_right(starts, b - 1) - 1 for _, b in offsets]
    if end:
        tokens, expected = [*tokens, 0], [*expected, len(starts) - 1]
    assert steps_of_tokens(bytewise, tokens, [0], text, starts) == expected


@given(st.lists(st.integers(0, 329), min_size=1, max_size=60), st.lists(st.integers(1, 200), max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_ids_get_exactly_one_step_each(bytewise, ids, cuts):
    """Ids as a policy may sample them: no encoding of any text, broken characters, special tokens in the middle."""
    tokens = [i % len(bytewise) for i in ids]
    text = decode(bytewise, tokens, [0])
    starts = [0, *sorted({c for c in cuts if c < len(text)})]
    found = steps_of_tokens(bytewise, tokens, [0], text, starts)
    assert len(found) == len(tokens)
    assert found == sorted(found)
    for t, step in enumerate(found):
        before, after = (shared(decode(bytewise, tokens[:n], [0]), text) for n in (t, t + 1))
        assert step == bisect_right(starts, max(before, after - 1)) - 1


def test_a_tokenizer_that_joins_by_spaces(tiny_folder, load):
    tokenizer = load(tiny_folder).tokenizer
    tokens = tokenizer("a b c d")["input_ids"]
    text = decode(tokenizer, [*tokens, 1], [1])
    assert text == "a b c d"
    # the space before `c` belongs to c's token, whether the step begins with that space or after it
    assert steps_of_tokens(tokenizer, [*tokens, 1], [1], text, [0, 3]) == [0, 0, 1, 1, 1]
    assert steps_of_tokens(tokenizer, [*tokens, 1], [1], text, [0, 4]) == [0, 0, 1, 1, 1]
    assert steps_of_tokens(tokenizer, [*tokens, 1], [1], text, [0]) == [0] * 5
    assert steps_of_tokens(tokenizer, [1], [1], "", [0]) == [0]


# --- through the trainer ---


def goodness(word):
    return 1.0 if word in "aeiou" else ord(word[0]) % 3 / 4


class StepGrader(Grader):
    """Beside the others, a criterion whose steps are the words of the text: vowels are 1, other letters 0, 1/4 or 1/2."""

    def __init__(self, pooling="mean", fails=lambda index: False):
        super().__init__()
        self.pooling, self.blind = pooling, fails
        self.criteria = [
            CriterionWeight("even", 1.0, judged=False),
            CriterionWeight("vowels", 9.0, step_pooling=pooling),
        ]

    def cells(self, step, index, completion):
        spans = split_steps(completion.text, " ")
        steps = [
            StepCell(start=a, end=b, status="ok", score=goodness(completion.text[a:b].strip()), confidence=0.5)
            for a, b in spans
        ]
        if self.blind(index):
            cell = Cell(criterion="vowels", grader="judge", status="refusal", reason="no")
        else:
            pooled = pool_steps(steps, self.pooling)
            cell = Cell(
                criterion="vowels", grader="judge", status="ok", score=pooled.score, confidence=pooled.confidence,
                confidence_source="verbal", steps=steps,
            )  # fmt: skip
        return {"even": super().cells(step, index, completion)["even"], "vowels": cell}


def by_hand(group, i, tokens, pooling, credit):
    """Each token's advantage from the cells: outcome part plus the step's credit, times the factor."""
    scored = group.scored
    own, cell = scored.completions[i], group.cells[i]["vowels"]
    outcome = own.parts["even"]
    share, centre = scored.weighting["vowels"].share, scored.weighting["vowels"].mean_score
    scores = [s.score for s in cell.steps]
    expected = []
    for t in range(len(tokens)):
        # A word is a token here; the three special tokens (ids 0 to 2) have no text and belong to the word before them.
        k = max(0, sum(token > 2 for token in tokens[: t + 1]) - 1)
        if pooling == "min":
            part = share * (min(scores) - centre)
            value = part if credit == "all" or k <= scores.index(min(scores)) else 0.0
        elif credit == "all":
            value = share * (mean(scores) - centre)
        else:
            value = share * sum(s - centre for s in scores[k:]) / (len(scores) if credit == "to_go" else 1)
        expected.append(own.scale_factor * (outcome + value))
    return expected


@pytest.mark.parametrize("pooling", ["mean", "min"])
@pytest.mark.parametrize("credit", ["to_go", "all", "deepseek_sum"])
def test_the_batch_carries_the_credit_of_each_step(tiny_folder, load, pooling, credit):
    policy = load(tiny_folder)
    algorithm, groups = rollout(
        policy, spec_of(algorithm={"objective": {"step_credit": credit}}), grader=StepGrader(pooling)
    )
    batch = algorithm.batch_of(groups, skip=False)
    rows = [(group, i) for group in groups for i in range(4)]
    for (group, i), tokens, advantages in zip(rows, batch.tokens_B_T, batch.advantages_B_T, strict=True):
        assert advantages == pytest.approx(by_hand(group, i, tokens, pooling, credit), abs=1e-12)
        if credit == "to_go":  # the law: the first token has the completion's own advantage
            assert advantages[0] == pytest.approx(group.scored.completions[i].advantage, abs=1e-9)
    if credit != "all":
        assert any(len(set(row)) > 1 for row in batch.advantages_B_T)


def test_a_null_step_cell_leaves_every_token_the_rest(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(
        policy,
        spec_of(algorithm={"aggregation": {"min_coverage": 0}}),
        grader=StepGrader(fails=lambda index: index == 1),
    )
    batch = algorithm.batch_of(groups, skip=False)
    for group, row in zip(groups, batch.advantages_B_T[1::4], strict=True):
        assert group.steps[1] == {}
        assert row == [group.scored.completions[1].advantage] * len(row)


def test_the_gradient_by_step_does_not_depend_on_the_cut(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of(), grader=StepGrader())
    batch = algorithm.batch_of(groups)
    import torch

    whole = gradient(policy, algorithm, batch)
    policy.budget = 20
    assert len(policy.microbatches(batch)) > 1
    assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_credit_by_step_teaches_what_the_steps_say(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of(training={"steps": 30, "learning_rate": 0.01}), grader=StepGrader())
    run.go()
    values = list(run.recorder.metric["score.vowels"].values())
    assert sum(values[-5:]) / 5 > sum(values[:5]) / 5 + 0.1
