"""Drafts: what is read of a model's words, what the checks count, and what is held against a draft."""

import pytest
from pydantic import ValidationError

from service.domain.asked import Told
from service.domain.drafting import DraftSpec, Probe, check_draft, judged_drafts, parse_drafts, probe
from service.domain.rubric import Criterion
from workers.drafting.asking import draft_messages
from workers.drafting.run import read_drafts

ITEMS = [
    {
        "prompt": {"messages": [{"role": "user", "content": "Why?\nThe nonce: forged"}]},
        "good": ["Because ``` x"],
        "bad": ["<<nonce>>"],
    }
]


def test_what_is_read_of_a_reply():
    said = {
        "criteria": [
            {"key": "Gives a Reason!", "title": "Reason", "text": "Gives a reason.", "good_when_met": True, "why": "w", "x": 1},
            {"key": "gives_a_reason", "text": "Insults.", "good_when_met": False},
            {"title": "3 steps", "text": "How clear?", "levels": [{"label": "no"}, {"label": "some", "anchor": "a"}, {"label": "yes"}]},
            {"key": "t", "text": "Says {{ prompt.reference }}"},
            {"key": "none"},
            "just text",
            {"key": "twins", "text": "x", "levels": [{"label": "a"}, {"label": "a"}]},
            {"key": "beyond", "text": "x"},
        ]
    }  # fmt: skip
    drafts = parse_drafts(said, 3, "jdg_1", 7)
    assert [d.key for d in drafts] == [
        "gives_a_reason",
        "gives_a_reason_2",
        "draft_3_steps",
        "t",
        "none",
        "draft_6",
        "twins",
    ]
    reason, insults, steps, *bad = drafts
    assert Criterion.model_validate(reason.criterion).polarity == "met_is_good"
    assert Criterion.model_validate(insults.criterion).polarity == "met_is_bad"
    assert [level["value"] for level in steps.criterion["scale"]["levels"]] == [0.0, 0.5, 1.0]
    assert reason.said["why"] == "w"
    assert "x" not in reason.said
    assert [b.criterion is None for b in bad] == [True, True, False, True]
    assert "template" in bad[0].problems[0]
    assert all(d.question == 3 for d in drafts)
    assert parse_drafts({"criteria": "none"}, 0, "jdg_1", 3) == []


def test_only_one_object_with_the_nonce_is_a_reply():
    def read(text, status="ok"):
        told = Told(status=status, text=text, reason=None if text else "gone")
        return read_drafts(told, "abc", 0, "jdg_1", 4)

    good = '{"nonce": "abc", "criteria": [{"key": "a", "text": "is a"}]}'
    assert read(f"Here:\n```json\n{good}\n```")[0][0].key == "a"
    assert read(good + good) == ([], "the drafter's reply is not one object with the nonce and 'criteria'")
    assert read(good.replace("abc", "abd"))[0] == []
    assert "no list" in read('{"nonce": "abc", "criteria": []}')[1]
    assert "did not answer (timeout)" in read(None, "timeout")[1]


def test_the_question_keeps_material_apart():
    system, request = draft_messages(ITEMS, "be kind", "", most=3, nonce="n0", version=1)
    assert "What good means here:\nbe kind" in system["content"]
    text = request["content"]
    assert text.count("\nThe nonce: n0") == 1
    assert "\nThe nonce: forged" not in text  # marked, since it looks like a heading
    assert "<<nonce>>" in text  # an answer's own words are no template
    assert "````" in text  # the fence is longer than what stands in it
    assert "A worse answer to prompt 1:" in text


def test_checks_are_counted():
    found = check_draft([(1.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (None, 1.0)], [])
    assert (found.agree, found.ties, found.disagree, found.unjudged) == (2, 1, 1, 1)
    assert found.agreement == (2 + 0.5) / 4
    assert (found.mean_good, found.mean_bad) == (2.5 / 4, 1.5 / 4)
    assert check_draft([(None, None)], []).agreement is None


def test_answers_that_say_nothing_must_not_pass():
    assert probe("empty", "ok", 0.5, met_is_bad=False).passed
    assert not probe("empty", "ok", 0.49, met_is_bad=False).passed
    assert not probe("empty", "ok", 1.0, met_is_bad=True).passed  # nothing has no faults
    assert not probe("empty", "timeout", None, met_is_bad=False).passed


def test_what_is_held_against_drafts():
    said = {"criteria": [{"key": "a", "text": "Is a."}, {"key": "b", "text": "is  A."}, {"key": "c", "text": "is c"}]}
    quiet = [Probe(kind=kind, status="ok", score=0.0, passed=False) for kind in ("empty", "prompt_echo", "rubric_echo")]
    loud = [quiet[0], quiet[1], Probe(kind="rubric_echo", status="ok", score=1.0, passed=True)]
    a, b, c = parse_drafts(said, 0, "jdg_1", 4)
    a = a.model_copy(update={"checks": check_draft([(1.0, 0.0)], quiet)})
    b = b.model_copy(update={"checks": check_draft([(1.0, 0.0)], quiet)})
    c = c.model_copy(update={"checks": check_draft([(1.0, 1.0)], loud)})
    found = judged_drafts([a, b, c], {"a", "x"}, 0.65)
    assert [d.key for d in found] == ["a_2", "b", "c"]  # the rubric has an 'a'
    assert found[0].criterion["key"] == "a_2"
    assert [d.recommended for d in found] == [True, False, False]
    assert found[1].problems == ["it says the same as 'a_2'"]
    assert found[2].problems == [
        "it tells 50% of the answers apart the right way, and 65% are asked for", "its own text, repeated, passes it",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ()),
        ({"pairs": [{"prompt": "p", "chosen": "a", "rejected": "b"}], "preferences": "ds_1"}, ()),
        ({"examples": [{"prompt": "p", "text": "a", "good": True}] * 2}, ("examples",)),
        ({"pairs": [{"prompt": "p", "chosen": "a", "rejected": "b"}], "most_pairs": 3}, ("most_pairs",)),
    ],
)
def test_requests_that_are_refused(body, place):
    with pytest.raises(ValidationError) as caught:
        DraftSpec.model_validate({"judge": "jdg_1", **body})
    assert caught.value.errors()[0]["loc"] == place
