"""One rubric or a map by category in a job; what is pinned, and what the policy and the judges see of a system prompt."""

import pytest
from pydantic import ValidationError

from service.domain.base import pointer
from service.domain.conversation import Message, shown_messages, with_system_prompt
from service.domain.job import JobSpec, by_category
from service.domain.pinned import PinnedRubrics, common, pinned_version, version_name
from service.domain.rubric import Aggregation

SPEC = {
    "algorithm": {"type": "grape"},
    "policy": {"model": "mdl_0"},
    "data": {"prompts": "ds_0"},
    "training": {"steps": 2},
}


def spec(rubric, **more):
    return JobSpec.model_validate({**SPEC, "rubric": rubric, **more})


@pytest.mark.parametrize(
    ("rubric", "names"),
    [
        ({"id": "rub_0"}, {"*": ("rub_0", "latest")}),
        ({"maths": {"id": "rub_0", "version": 3}}, {"maths": ("rub_0", 3)}),
        ({"a/b": {"id": "rub_0", "version": "production"}, "*": {"id": "rub_1"}},
         {"a/b": ("rub_0", "production"), "*": ("rub_1", "latest")}),
        ({"id": {"id": "rub_0"}, "version": {"id": "rub_1"}}, {"id": ("rub_0", "latest"), "version": ("rub_1", "latest")}),
    ],
)  # fmt: skip
def test_one_rubric_is_a_map_with_a_default(rubric, names):
    made = spec(rubric)
    assert {category: (ref.id, ref.version) for category, ref in by_category(made.rubric).items()} == names
    assert JobSpec.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("rubric", "place"),
    [
        ({}, "/rubric/id"),
        ("rub_0", "/rubric"),
        ({"id": "rub_0", "vers": 1}, "/rubric/vers"),
        ({"maths": {"id": "x"}}, "/rubric/maths/id"),
        ({"a/b": {"id": "rub_0"}, "c": "rub_1"}, "/rubric/c"),
        ({"a/b": {"idd": "rub_0"}}, "/rubric/a~1b/idd"),
    ],
)
def test_faults_of_maps_have_their_place(rubric, place):
    body = {**SPEC, "rubric": rubric}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body)
    assert place in {pointer(e["loc"], body) for e in caught.value.errors()}
    body = {**SPEC, "rubric": {"id": "rub_0"}, "evaluation": {"prompts": "ds_0", "rubric": rubric}}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body)
    assert f"/evaluation{place}" in {pointer(e["loc"], body) for e in caught.value.errors()}


RESOLVED = {
    "rubrics": {"rub_0@3": {"id": "rub_0", "version": 3, "hash": "h", "content": {}}, "rub_1@1": {"id": "rub_1"}},
    "rubric": {"maths": "rub_0@3", "*": "rub_1@1"},
    "evaluation_rubric": {"maths": "rub_0@3"},
}


def test_a_prompts_rubric_is_its_categorys_or_the_default():
    pinned = PinnedRubrics.of(RESOLVED)
    assert [pinned.name_for(c) for c in ("maths", "code", None, "*")] == ["rub_0@3", "rub_1@1", "rub_1@1", "rub_1@1"]
    strict = PinnedRubrics.of(RESOLVED, "evaluation_rubric")
    assert [strict.name_for(c) for c in ("maths", "code", None)] == ["rub_0@3", None, None]
    assert set(strict.versions) == {"rub_0@3"}
    assert pinned.show("maths") == {"id": "rub_0", "version": 3, "hash": "h"}
    assert PinnedRubrics.of({"judges": {}}) is None
    assert version_name("rub_0", 3) == "rub_0@3"


def test_jobs_of_the_first_release_have_one_rubric():
    old = {"rubric": {"id": "rub_0", "version": 2, "hash": "h", "category": None, "content": {"criteria": []}}}
    pinned = PinnedRubrics.of(old)
    assert pinned.name_for("anything") == "rubric"
    assert pinned.show() == {"id": "rub_0", "version": 2, "hash": "h"}
    assert pinned_version(old, "rubric") == old["rubric"]
    assert pinned_version(RESOLVED, "rub_1@1") == {"id": "rub_1"}


def test_the_spec_keeps_what_all_rubrics_agree_on():
    one = Aggregation(weighting="uniform", min_coverage=0.5)
    two = Aggregation(weighting="confidence", min_coverage=0.5)
    assert common([one]) == one
    assert common([one, two]) == Aggregation(min_coverage=0.5)


# --- system prompts ---

USER = Message(role="user", content="2+2?")


def system(text):
    return Message(role="system", content=text)


def test_messages_get_a_system_message_in_front():
    assert with_system_prompt([USER], "Be brief.") == [system("Be brief."), USER]
    assert with_system_prompt([USER], "  \n") == [USER]


def test_a_system_message_of_the_prompts_own_stands_after_the_rubrics():
    assert with_system_prompt([system("Speak French."), USER], "Be brief.") == [
        system("Be brief.\n\nSpeak French."),
        USER,
    ]
    assert with_system_prompt([system(" Be brief.\n"), USER], "Be brief.") == [system(" Be brief.\n"), USER]
    assert with_system_prompt([system(""), USER], "Be brief.") == [system("Be brief."), USER]


def test_plain_text_is_continued_after_the_system_prompt():
    assert with_system_prompt("2+2=", "Be brief.") == "Be brief.\n\n2+2="
    assert with_system_prompt("2+2=", "") == "2+2="


def test_what_is_shown_is_what_the_policy_saw():
    assert shown_messages("2+2=", "Be brief.") == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="},
    ]  # fmt: skip
    assert shown_messages([USER], "Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert shown_messages("2+2=") == [{"role": "user", "content": "2+2="}]
