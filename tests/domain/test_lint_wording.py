"""The linter on what judged criteria say: each rule with texts that it is for, and texts that only look like it."""

import pytest

from tests.support.lint import TOLD, findings, judged, said, verified


@pytest.mark.parametrize(
    "text",
    ["The answer is good.", "High quality", "Is helpful and useful to the user", "The response makes sense.", "Good"],
)
def test_unfalsifiable(text):
    assert said("unfalsifiable", judged(text)) == ["/criteria/0/text"]


@pytest.mark.parametrize(
    "text",
    [
        TOLD,
        "Is polite.",
        "The answer is 4.",
        "Contains the words “high quality”.",
        "Is a valid sonnet",
        "Has good grammar",
    ],
)
def test_falsifiable(text):
    assert said("unfalsifiable", judged(text)) == []


def test_anchors_make_good_mean_something():
    levels = [{"label": "bad", "value": 0, "anchor": "insults"}, {"label": "good", "value": 1, "anchor": "thanks"}]
    assert said("unfalsifiable", judged("Is good", scale={"type": "ordinal", "levels": levels})) == []
    assert said("vague_words", judged("uses an appropriate tone", scale={"type": "ordinal", "levels": levels})) == []


@pytest.mark.parametrize(
    "text", ["uses an appropriate tone", "Cites sources, dates, etc.", "is explained reasonably", "asks back as needed"]
)
def test_vague_words(text):
    assert said("vague_words", judged(text)) == ["/criteria/0/text"]


@pytest.mark.parametrize(
    "text", [TOLD, 'says "as needed"', "gives the necessary and sufficient condition", "The answer is good."]
)
def test_words_that_are_not_vague(text):
    assert said("vague_words", judged(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "The answer is clear and concise.",
        "Names the capital and gives its population.",
        "The tone is friendly, and the answer cites a source",
        "Answers accurately and concisely",
        "Gives the dose, but doesn't recommend a drug",
        "The final number is right. It also shows the unit.",
        "States the rule and names the exception",
    ],
)
def test_double_barrelled(text):
    assert said("double_barrelled", judged(text)) == ["/criteria/0/text"]


@pytest.mark.parametrize(
    "text",
    [
        TOLD,
        "Mentions salt and pepper.",
        "Includes dates and names of the people involved",
        "If the user is angry and has asked twice, the answer apologises.",
        "Explains the difference between costs and uses",
        "Does not insult or threaten",
        'Says "is clear and concise"',
        "The number is between 3 and 5.",
        "Recommends a doctor who is licensed and is available",
        "Names the black and white keys",
    ],
)
def test_single_barrelled(text):
    assert said("double_barrelled", judged(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Gives a comprehensive explanation",
        "The answer is detailed.",
        "Lists as many examples as possible",
        "Has at least 200 words",
        "Discusses the topic in depth",
        "The longer the better",
    ],
)
def test_verbosity_rewarding(text):
    assert said("verbosity_rewarding", judged(text)) == ["/criteria/0/text"]


@pytest.mark.parametrize(
    "text", [TOLD, "Is not overly detailed", "Gives no unnecessarily long answer", "Avoids a lengthy explanation", "Has at most 200 words",
             "Is brief rather than comprehensive"]
)  # fmt: skip
def test_brevity(text):
    assert said("verbosity_rewarding", judged(text)) == []
    assert said("verbosity_rewarding", judged("Is needlessly thorough", polarity="met_is_bad")) == []


def test_a_pattern_may_reward_length_too():
    assert said("verbosity_rewarding", verified(r"^.{200,}$")) == ["/criteria/0/grader/pattern"]
    assert said("verbosity_rewarding", verified(r"[\s\S]{80,}")) == ["/criteria/0/grader/pattern"]
    for other in (verified("^.{0,200}$"), verified("^.{200,400}$"), verified(r"^.{200,}$", polarity="met_is_bad"),
                  {**verified(), "grader": {"type": "regex", "pattern": "^.{200,}$", "must_match": False}}):  # fmt: skip
        assert said("verbosity_rewarding", other) == []


@pytest.mark.parametrize(
    "text",
    ["Has exactly three bullet points", "Uses no more than 100 words", "Is 5-7 sentences long", "Mentions the name at least 3 times",
     "Gives between 2 and 4 examples", "The summary is two sentences"],
)  # fmt: skip
def test_counting_dependent(text):
    assert said("counting_dependent", judged(text)) == ["/criteria/0/text"]


@pytest.mark.parametrize(
    "text",
    [TOLD, "Mentions at least one source", "Says to take 200 mg two times a day", "Names the 3 primary colours",
     "Names the year 1995", "Explains the two steps that the user names"],
)  # fmt: skip
def test_nothing_to_count(text):
    assert said("counting_dependent", judged(text)) == []


def test_double_negatives():
    found = findings(
        judged("Avoids medical jargon", polarity="met_is_bad"),
        judged("Does not cite a source", "b", polarity="met_is_bad"),
    )
    assert [(f.code, f.severity, f.pointer) for f in found] == [
        ("double_negative", "warning", "/criteria/0/text"), ("double_negative", "info", "/criteria/1/text"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "polarity"),
    [("Avoids medical jargon", "met_is_good"), ("Uses medical jargon", "met_is_bad"), ("Fails to cite a source", "met_is_bad"),
     ("Claims that there is no risk", "met_is_bad"), ('Says "never mind"', "met_is_bad")],
)  # fmt: skip
def test_single_negatives(text, polarity):
    assert said("double_negative", judged(text, polarity=polarity)) == []
