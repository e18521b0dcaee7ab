"""A criterion with its judge's own votes and confidence where it says nothing: what cannot be asked."""

import pytest

from service.domain.inherited import JudgeFacts, contradictions, first_contradiction, first_in_rows, own_votes
from service.domain.rubric import Criterion
from tests.support.lint import judged

UNIT = {"type": "unit"}


def criterion(scale=None, **grader):
    more = {"scale": scale} if scale else {}
    return Criterion.model_validate(judged(grader={"type": "judge", "judge": "jdg_0", **grader}, **more))


@pytest.mark.parametrize(
    ("facts", "asked", "places"),
    [
        (JudgeFacts(), criterion(), []),
        (JudgeFacts(votes=1), criterion(confidence="votes"), ["grader/votes"]),
        (JudgeFacts(votes=3), criterion(confidence="votes"), []),
        (JudgeFacts(votes=3, confidence="votes"), criterion(), []),
        (JudgeFacts(votes=3, confidence="votes"), criterion(votes=1), ["grader/votes"]),
        (JudgeFacts(votes=3, confidence="votes"), criterion(votes=1, confidence="verbal"), []),
        (JudgeFacts(confidence="logprob"), criterion(), []),
        (JudgeFacts(confidence="logprob"), criterion(UNIT), ["scale"]),
        (JudgeFacts(confidence="logprob"), criterion(UNIT, confidence="verbal"), []),
        (JudgeFacts(), criterion(UNIT), []),
        (JudgeFacts(lacks={"logprobs": "learned"}), criterion(), []),
        (JudgeFacts(lacks={"logprobs": "learned"}), criterion(confidence="logprob"), ["grader/confidence"]),
        (JudgeFacts(confidence="logprob", lacks={"logprobs": "said"}), criterion(), ["grader/confidence"]),
        (JudgeFacts(confidence="logprob", lacks={"seed": "said"}), criterion(), []),
    ],
)
def test_inherited_values_count(facts, asked, places):
    found = list(contradictions(asked, {"jdg_0": facts}))
    assert [fault.place for fault in found] == places
    assert list(contradictions(asked, {})) == []  # an unknown judge is reported elsewhere
    first = first_contradiction([criterion(votes=2), asked], {"jdg_0": facts})
    assert first == (("a", found[0].message) if places else None)


def test_the_sentence_says_whose_value_it_is():
    (own,) = contradictions(criterion(votes=1), {"jdg_0": JudgeFacts(votes=3, confidence="votes")})
    assert "which it inherits from 'jdg_0'" in own.message
    assert "it has a single one" in own.message
    (judges,) = contradictions(criterion(confidence="votes"), {"jdg_0": JudgeFacts()})
    assert "inherits" not in judges.message
    assert "'jdg_0' gives a single one" in judges.message
    assert own_votes({"jdg_0": JudgeFacts(votes=3)}) == {"jdg_0": 3}


def test_what_prompts_bring_along_is_held_to_the_same():
    judges = {
        "jdg_0": JudgeFacts(votes=3),
        "jdg_1": JudgeFacts(confidence="votes"),
        "jdg_2": JudgeFacts(confidence="logprob"),
    }
    fine = [
        ("a", "jdg_0", None, "votes", None),
        ("b", "jdg_2", None, None, "ordinal"),
        ("c", "jdg_9", None, "votes", None),
    ]
    assert first_in_rows(fine, judges) is None
    for asked in (("jdg_0", 1, "votes", None), ("jdg_1", None, None, None), ("jdg_2", None, None, "unit")):
        found = first_in_rows([*fine, ("here", *asked)], judges)
        assert found is not None
        assert found[0] == "here"
