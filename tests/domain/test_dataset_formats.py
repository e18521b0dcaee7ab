"""Rows in the formats of others: into ours, and back to equal JSON values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.base import canonical_json
from service.domain.dataset import ROWS
from service.domain.formats.reading import Options
from service.domain.formats.rows import Importer, write
from service.domain.formats.source import FormatError, same
from tests.support import formats as f

PAIRS = {
    "hh": f.HH, "ultrafeedback": f.ULTRAFEEDBACK, "ultrafeedback, binarised": f.BINARIZED, "cai": f.CAI,
    "openai": f.OPENAI_PREFERENCE, **{k: v for k, v in f.TRL.items() if "preference" in k},
}  # fmt: skip
ANSWERS = {"openai": f.OPENAI_CHAT, **{k: v for k, v in f.TRL.items() if "preference" not in k and "only" not in k}}
PROMPTS = {"healthbench": f.HEALTHBENCH, "rar": f.RAR, **{k: v for k, v in f.TRL.items() if "only" in k}}


def imported(row, kind, wanted="auto", **options):
    """The content as it is stored: read, checked, in canonical JSON."""
    importer = Importer(kind, wanted, Options(**{"judge": f.JUDGE, "polarity": "from_prefix", **options}))
    content = ROWS[kind].validate_json(canonical_json(importer.read(json.loads(json.dumps(row)))))
    return json.loads(canonical_json(content.model_dump(mode="json", exclude_unset=True))), importer


EVERY = [
    pytest.param(row, kind, id=f"{name} as {kind}")
    for kind, rows in (
        ("preferences", PAIRS),
        ("demonstrations", {**PAIRS, **ANSWERS}),
        ("prompts", {**PAIRS, **ANSWERS, **PROMPTS}),
    )
    for name, row in rows.items()
    if (name, kind) != ("text", "prompts")
]


@pytest.mark.parametrize(("row", "kind"), EVERY)
def test_an_imported_row_comes_back_with_equal_values(row, kind):
    content, importer = imported(row, kind)
    back = write(content, kind, "as_imported")
    assert same(back, row)
    assert same(write(content, kind, importer.format), row)


@pytest.mark.parametrize(("row", "kind"), [p for p in EVERY if p.id.endswith("as preferences")])
def test_every_pair_has_the_better_answer_first(row, kind):
    content, _ = imported(row, kind)
    better, worse = content["chosen"], content["rejected"]
    texts = [side if isinstance(side, str) else side[0]["content"] for side in (better, worse)]
    assert texts[0].strip(" .").endswith(("4", "blue"))
    assert texts[1].strip(" .").endswith(("5", "green"))


def test_what_each_format_becomes():
    hh, importer = imported(f.HH, "preferences")
    assert importer.format == "hh"
    assert hh["prompt"] == [
        {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "Let me see."}, {"role": "user", "content": "Well?"},
    ]  # fmt: skip
    assert hh["chosen"] == [{"role": "assistant", "content": "It is 4."}]
    assert hh["origin"] == {"format": "hh", "shape": "pair", "fields": {}, "absent": []}  # nothing is stored twice
    raw, importer = imported(f.ULTRAFEEDBACK, "preferences")
    assert importer.format == "ultrafeedback"
    assert (raw["chosen"][0]["content"], raw["rejected"][0]["content"]) == ("4", "5")  # by ratings, not overall_score
    assert raw["metadata"]["correct_answers"] == ["4"]
    cai, importer = imported(f.CAI, "preferences")
    assert importer.format == "cai"
    assert cai["metadata"]["critic_response"] == "No: it is 4."
    chat, importer = imported(f.OPENAI_CHAT, "demonstrations")
    assert importer.format == "openai"
    assert chat["messages"] == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
    ]  # fmt: skip
    explicit, importer = imported(f.TRL["preference"], "preferences")
    assert (importer.format, explicit["margin"], explicit["metadata"]) == ("trl", 0.5, {"source": "me"})
    implicit, _ = imported(f.TRL["implicit_preference"], "preferences")
    assert (implicit["prompt"], implicit["chosen"], implicit["rejected"]) == ("The sky is", " blue.", " bright green.")
    steps, _ = imported(f.TRL["stepwise"], "demonstrations")
    assert steps["completion"] == "2*2=4\n\n2+4=6"
    text, _ = imported(f.TRL["text"], "demonstrations")
    assert (text["prompt"], text["completion"]) == ("", "The sky is blue.")
    asked, _ = imported(f.TRL["prompt_only, conversational"], "prompts")
    assert asked["metadata"] == {"answer": "4", "level": 1}  # {{ prompt.metadata.answer }}


def test_prompts_bring_their_criteria():
    content, importer = imported(f.HEALTHBENCH, "prompts")
    assert importer.format == "healthbench"
    assert [(c["weight"], c.get("polarity", "met_is_good")) for c in content["criteria"]] == [
        (10, "met_is_good"), (5, "met_is_good"), (8, "met_is_bad"),
    ]  # fmt: skip
    assert content["criteria"][0]["grader"] == {"type": "judge", "judge": f.JUDGE}
    assert content["tags"] == ["theme:emergency_referrals"]
    content, importer = imported(f.RAR, "prompts")
    assert (importer.format, content["reference"]) == ("rar", "5 mg")
    assert [(c["weight"], c["polarity"], c["tags"]) for c in content["criteria"]] == [
        (5, "met_is_good", ["Essential"]), (3, "met_is_good", ["Important"]), (1, "met_is_good", ["Optional"]),
        (1, "met_is_good", ["Pitfall"]), (2, "met_is_bad", ["Pitfall"]),
    ]  # fmt: skip
    assert content["criteria"][4]["text"] == "Recommends a double dose."
    assert importer.options.decided == {"met_is_good": 1, "met_is_bad": 1}


@pytest.mark.parametrize(
    ("row", "options", "places"),
    [
        (f.RAR, {"polarity": None}, {"/rubric/3/polarity": "polarity_needed", "/rubric/4/polarity": "polarity_needed"}),
        (f.RAR, {"polarity": "ask"}, {"/rubric/3/polarity": "undecided", "/rubric/4/polarity": "undecided"}),
        (f.rar_row(f.UNCLEAR), {}, {"/rubric/3/polarity": "undecided"}),
        (f.rar_row({**f.UNCLEAR, "polarity": "bad"}), {}, {"/rubric/3/polarity": "invalid_polarity"}),
        (f.RAR, {"judge": None}, {"": "judge_needed"}),
        (f.HEALTHBENCH, {"judge": None}, {"": "judge_needed"}),
    ],
)
def test_what_nobody_has_decided_is_asked_for(row, options, places):
    with pytest.raises(FormatError) as caught:
        imported(row, "prompts", **options)
    assert {fault.pointer: fault.code for fault in caught.value.faults} == places


def test_a_decision_in_the_file_is_taken_and_comes_back():
    row = f.rar_row({**f.UNCLEAR, "polarity": "met_is_bad"}, {**f.FAILS, "polarity": "met_is_good"})
    content, importer = imported(row, "prompts", polarity="ask")
    assert [c["polarity"] for c in content["criteria"][3:]] == ["met_is_bad", "met_is_good"]
    assert not importer.options.decided
    assert same(write(content, "prompts", "rar"), row)


@pytest.mark.parametrize(
    ("row", "kind", "wanted", "place", "code"),
    [
        ({**f.TRL["unpaired"], "label": False}, "demonstrations", "auto", "/label", "bad_completion"),
        ({**f.TRL["unpaired"], "label": "yes"}, "demonstrations", "auto", "/label", "bool_type"),
        (f.TRL["unpaired"], "preferences", "auto", "/label", "no_pair"),
        ({**f.TRL["stepwise"], "labels": [True, False]}, "demonstrations", "auto", "/labels/1", "bad_completion"),
        ({**f.TRL["stepwise"], "labels": [True]}, "prompts", "auto", "/labels", "length"),
        (f.TRL["text"], "prompts", "auto", "", "no_prompt"),
        (f.TRL["prompt_only"], "preferences", "auto", "", "no_pair"),
        ({"prompt": 7}, "prompts", "trl", "/prompt", "invalid_prompt"),
        ({"chosen": "yes", "rejected": "no"}, "preferences", "trl", "/chosen", "no_prompt"),
        ({"chosen": [f.U, f.A], "rejected": "5"}, "preferences", "trl", "/rejected", "mixed_shapes"),
        ({"messages": [f.U, {"role": "tool", "content": "4"}]}, "demonstrations", "auto", "/messages/1/role", "invalid_role"),
        ({"messages": [f.U, {**f.A, "tool_calls": [{}]}]}, "demonstrations", "auto", "/messages/1/tool_calls", "tool_calls"),
        ({"messages": [f.U, {**f.A, "weight": 0}]}, "demonstrations", "auto", "/messages/1/weight", "no_answer"),
        ({"messages": [f.U]}, "demonstrations", "auto", "/messages/0/role", "no_answer"),
        ({**f.HH, "rejected": f.HH["rejected"].replace("Let", "Do let")}, "preferences", "auto", "/chosen", "parts_early"),
        ({"chosen": "a", "rejected": "b"}, "preferences", "hh", "/chosen", "no_turns"),
        ({**f.ULTRAFEEDBACK, "completions": f.ULTRAFEEDBACK["completions"][:1] * 2}, "preferences", "auto", "/completions", "tie"),
        ({**f.OPENAI_PREFERENCE, "preferred_output": [f.A, f.A]}, "preferences", "auto", "/preferred_output", "invalid_completion"),
        ({**f.BINARIZED, "prompt": "3+3?"}, "preferences", "auto", "/chosen", "other_prompt"),
        ({**f.HEALTHBENCH, "rubrics": [{"criterion": "x", "points": 0}]}, "prompts", "auto", "/rubrics/0/points", "invalid_points"),
        ({**f.HEALTHBENCH, "rubrics": [{"points": 1}]}, "prompts", "auto", "/rubrics/0/criterion", "missing"),
        (f.HEALTHBENCH, "demonstrations", "auto", "", "no_answer"),
        ({"frage": "2+2?"}, "prompts", "auto", "", "unknown_format"),
        (f.HH, "preferences", "rar", "", "not_this_format"),
        ([1], "prompts", "trl", "", "object_type"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(row, kind, wanted, place, code):
    with pytest.raises(FormatError) as caught:
        imported(row, kind, wanted)
    fault = caught.value.faults[0]
    assert (fault.pointer, fault.code) == (place, code)
    assert len(fault.message) > 15


def test_answers_without_ratings_fall_back_to_scores_that_all_have():
    row = json.loads(json.dumps(f.ULTRAFEEDBACK))
    row["completions"][1]["annotations"]["honesty"]["Rating"] = "N/A"
    assert imported(row, "preferences")[0]["chosen"][0]["content"] == "4"  # by the fine-grained score
    for answer in row["completions"]:
        del answer["fine-grained_score"]
    assert imported(row, "preferences")[0]["chosen"][0]["content"] == "5"  # overall_score is all that is left


def test_rows_of_our_own_are_written_in_other_formats():
    pair = {"prompt": [f.U], "chosen": [f.A], "rejected": [f.WRONG], "margin": 0.5}
    assert write(pair, "preferences", "trl") == pair
    assert write(pair, "preferences", "hh")["chosen"] == "\n\nHuman: 2+2?\n\nAssistant: 4"
    assert write(pair, "preferences", "openai")["input"] == {"messages": [f.U]}
    assert write(pair, "preferences", "ultrafeedback")["rejected"] == [f.U, f.WRONG]
    whole = {"messages": [f.U, f.A], "metadata": {"source": "me"}}
    assert write(whole, "demonstrations", "trl") == {"messages": [f.U, f.A], "source": "me"}
    assert write({"prompt": "2+2", "completion": "=4"}, "demonstrations", "openai") == {
        "messages": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "=4"}]
    }
    assert write(whole, "demonstrations", "as_imported") == whole
    # From one foreign format into another.
    hh, _ = imported(f.HH, "preferences")
    assert write(hh, "preferences", "trl")["chosen"] == [{"role": "assistant", "content": "It is 4."}]


@pytest.mark.parametrize(
    ("content", "kind", "wanted"),
    [
        ({"prompt": "2+2"}, "prompts", "hh"),
        ({"prompt": "2+2"}, "prompts", "healthbench"),
        ({"prompt": "a", "completion": "b"}, "demonstrations", "cai"),
        (
            {"prompt": [{"role": "system", "content": "s"}, f.U], "chosen": [f.A], "rejected": [f.WRONG]},
            "preferences",
            "hh",
        ),
        ({"prompt": "a", "chosen": "b\n\nHuman: c", "rejected": "d"}, "preferences", "hh"),
    ],
)
def test_what_a_format_cannot_say_is_refused(content, kind, wanted):
    with pytest.raises(FormatError, match=r"row|HH|written"):
        write(content, kind, wanted)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
said = st.text(min_size=1, max_size=8).filter(lambda text: text.strip() and "\x00" not in text)
names = st.sampled_from(
    ["metadata", "margin", "weight", "reference", "tags", "category", "label", "id", "source", "tools"]
)


@given(
    said,
    said,
    said,
    st.dictionaries(names | said, values, max_size=4),
    st.sampled_from(["preferences", "prompts", "demonstrations"]),
)
def test_whatever_stands_beside_a_pair_comes_back(prompt, chosen, rejected, more, kind):
    row = {**more, "prompt": prompt, "chosen": chosen, "rejected": f"{rejected}{chosen}"}
    if {"completion", "completions", "prompt_id", "rubrics"} & more.keys():
        return
    importer = Importer(kind, "trl")
    try:
        content = importer.read(row)
    except FormatError:
        pytest.fail("a pair of texts is a row of TRL")
    checked = ROWS[kind].validate_json(json.dumps(content)).model_dump(mode="json", exclude_unset=True)
    assert same(write(checked, kind, "as_imported"), row)
