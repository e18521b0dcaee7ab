"""Similarity: numbers of the libraries' own documentation, and of the papers' definitions."""

import time

import pytest

from service.domain.grader import Metric
from service.domain.rubric import Criterion
from workers.graders import similarity
from workers.graders.similarity import METRICS
from workers.graders.verifiers import verify

PROMPT = {"reference": "the cat is on the mat", "category": None, "metadata": {}, "messages": []}

FOX = ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog")
GUIDE = "It is a guide to action that ensures that the military will forever heed Party commands"


@pytest.mark.parametrize(
    ("metric", "text", "reference", "expected"),
    [
        # rapidfuzz's README: fuzz.ratio("this is a test", "this is a test!") = 96.55171966552734 (2·14/(14 + 15))
        ("fuzzy_match", "this is a test", "this is a test!", 28 / 29),
        # rouge-score's README: rouge1 fmeasure 0.7058823529411765, rougeL fmeasure 0.5882352941176471
        ("rouge_1", *FOX, 0.7058823529411765),
        ("rouge_l", *FOX, 0.5882352941176471),
        # by the definition: of the bigrams (7 here, 8 there) 'the quick' and 'quick brown' match: 2·2/(7 + 8)
        ("rouge_2", *FOX, 4 / 15),
        ("rouge_3", *FOX, 2 / 13),  # 'the quick brown': 2·1/(6 + 7)
        ("rouge_4", *FOX, 0.0),
        # nltk's documentation of sentence_gleu
        ("gleu", "the the the the the the the", "the cat is on the mat", 2 / 22),  # 0.0909…
        ("gleu", "It is a guide to action which ensures that the military always obeys the commands of the party", GUIDE,
         0.4393939393939394),
        ("gleu", "It is to insure the troops forever hearing the activity guidebook that party direct", GUIDE,
         0.1206896551724138),
        # Papineni et al. 2002 with sacrebleu's exponential smoothing: precisions 5/6, 3/5, 1/4, and 1/(2·3) for no match
        # among three 4-grams; equal lengths, so no brevity penalty.
        ("bleu", "the cat sat on the mat", "the cat is on the mat", (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),
        # precisions 1 in every order that three words have; brevity penalty exp(1 − 6/3)
        ("bleu", "the cat is", "the cat is on the mat", 0.36787944117144233),
    ],
)  # fmt: skip
def test_golden(metric, text, reference, expected):
    assert METRICS[metric](text, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_is_one_and_strange_is_zero(metric):
    same = "one two three four five six"
    assert METRICS[metric](same, same) == 1.0
    assert METRICS[metric]("", same) == 0.0
    assert METRICS[metric]("zz", "bb aa cc dd ff gg") < 0.2


@pytest.mark.parametrize("metric", ["rouge_1", "rouge_l"])
@pytest.mark.parametrize(
    ("text", "reference"),
    [("Ёжик В тумане", "ёжик в ТУМАНЕ"), ("北京大学", "北京 大学"), ("naïve café", "naïve, café!")],
)
def test_words_of_any_script(metric, text, reference):
    assert METRICS[metric](text, reference) == 1.0


def test_one_metric_for_each_name():
    assert set(METRICS) == set(Metric.__args__)


def cell(text, **changes):
    grader = {
        "type": "similarity",
        "metric": "rouge_l",
        "reference": "{{ prompt.reference }}",
        **changes.pop("grader", {}),
    }
    return verify(Criterion.model_validate({"key": "a", "weight": 1, "grader": grader, **changes}), PROMPT, text)


def test_the_number_is_the_score():
    found = cell("the cat sat on the mat")
    assert (found.status, found.score, found.confidence, found.confidence_source) == ("ok", 10 / 12, 1.0, "verifier")


@pytest.mark.parametrize(("threshold", "hit"), [(0.8, 1.0), (10 / 12, 1.0), (0.9, 0.0)])
def test_a_threshold_makes_it_a_hit_or_a_miss(threshold, hit):
    grader = {"threshold": threshold}
    assert cell("the cat sat on the mat", grader=grader).score == hit
    found = cell("the cat sat on the mat", grader=grader, polarity="met_is_bad")
    assert (found.score, found.reason) == (1 - hit, "rouge_l 0.833333")


@pytest.mark.parametrize(
    ("metric", "reference"),
    [("rouge_5", "four words are few"), ("rouge_1", "…!"), ("bleu", " "), ("gleu", "\n"), ("rouge_l", "?")],
)
def test_a_reference_that_nothing_can_be_like_is_the_graders_fault(metric, reference):
    found = cell("four words are few", grader={"metric": metric, "reference": reference})
    assert (found.status, found.family, found.score) == ("infra_error", "infra", None)
    assert "reference" in found.reason


def test_long_texts_take_no_quadratic_time_and_no_lasting_memory():
    text = " ".join(f"w{k % 977}" for k in range(20_000))
    started = time.monotonic()
    for metric in ("rouge_l", "rouge_5", "bleu", "gleu"):
        assert METRICS[metric](text, text[:-3]) > 0.9
    assert time.monotonic() - started < 5
    for k in range(2 * similarity.MAX_CACHED_LINES):
        METRICS["bleu"](f"line {k}", "line 1")
    assert all(cache.cache_info().currsize <= similarity.MAX_CACHED_LINES + 1 for cache in similarity._sacrebleu()[2])
