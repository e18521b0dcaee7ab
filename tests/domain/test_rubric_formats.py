"""Rubrics in the formats of others: into ours, back to equal JSON values, and the scores that their authors publish."""

import json

import pytest

from service.domain.base import canonical_json
from service.domain.criteria import criteria_of, criterion_weights
from service.domain.formats import rubrics
from service.domain.formats.reading import Options
from service.domain.formats.rows import Importer
from service.domain.formats.source import FormatError, same
from service.domain.includes import flatten
from service.domain.rubric import AuthoredContent, RubricContent
from service.domain.scoring import ScoredCell, ScoringOptions, mean, plain_reward, score_group
from tests.support import formats as f

OUTPUT = "{{ sample.output_text }}"
EQUAL = {"type": "string_check", "name": "right", "input": OUTPUT, "reference": "{{item.answer}}", "operation": "eq"}
NEAR = {"type": "text_similarity", "name": "near", "input": OUTPUT, "reference": "{{ item.reference }}",
        "evaluation_metric": "rouge_l", "pass_threshold": 0.5}  # fmt: skip
QUESTION = "Q: {{ item.prompt }} A: {{sample.output_text}} ({{ item.lang }})"
SCORED = {
    "type": "score_model", "name": "kind", "model": "gpt-x", "range": [0, 10], "sampling_params": {"temperature": 0},
    "input": [{"role": "system", "content": "Score kindness from 0 to 10."},
              {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
}  # fmt: skip
LABELLED = {
    "type": "label_model", "name": "tone", "model": "gpt-x", "labels": ["rude", "plain", "warm"], "passing_labels": ["plain", "warm"],
    "input": [{"role": "user", "content": f"Label the tone of {OUTPUT}."}],
}  # fmt: skip


def multi(formula, graders):
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


DOCUMENTS = {
    "healthbench row": ("healthbench", f.HEALTHBENCH),
    "healthbench list": ("healthbench", f.HEALTHBENCH["rubrics"]),
    "rar row": ("rar", f.RAR),
    "rar, decided in the file": (
        "rar",
        f.rar_row({**f.UNCLEAR, "polarity": "met_is_good", "note": "asked Ann"})["rubric"],
    ),
    "string_check": ("openai_grader", EQUAL),
    "text_similarity": ("openai_grader", {"grader": NEAR}),
    "score_model": ("openai_grader", SCORED),
    "label_model": ("openai_grader", LABELLED),
    "multi": ("openai_grader", multi("0.7 * right + 0.3 * near", {"right": EQUAL, "near": NEAR})),
    "multi with models": ("openai_grader", multi("0.5*right + 0.05*kind", {"right": EQUAL, "kind": SCORED})),
}


def imported(document, format_name, **options):
    """What is stored: read, checked, with defaults filled in."""
    given = Options(**{"judge": f.JUDGE, "polarity": "from_prefix", **options})
    found = rubrics.read(rubrics.parse(json.dumps(document).encode(), format_name), format_name, given)
    return AuthoredContent.model_validate(found.content).model_dump(mode="json"), found


@pytest.mark.parametrize(("format_name", "document"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_an_imported_rubric_comes_back_with_equal_values(format_name, document):
    content, _ = imported(document, format_name)
    assert same(rubrics.write(content, format_name, {}), document)
    # Through our own files as well, the way an author keeps a rubric in git.
    for ours in ("json", "yaml"):
        text = rubrics.as_text(rubrics.write(content, ours, {"name": "n"}), ours)
        again, found = imported(rubrics.parse(text.encode(), ours), "json")
        assert (again, found.name) == (content, "n")
        assert same(rubrics.write(again, format_name, {}), document)


def test_where_a_rubric_came_from_is_no_part_of_its_hash():
    content, _ = imported(f.HEALTHBENCH, "healthbench")
    assert content["origin"]["fields"]["prompt_id"] == "p-1"
    bare = {**content, "origin": None}
    hashes = {flatten(AuthoredContent.model_validate(c), []).hash for c in (content, bare)}
    assert len(hashes) == 1
    assert "origin" not in AuthoredContent.model_validate(bare).model_dump(mode="json")


def test_a_criterion_that_was_changed_is_written_anew():
    content, _ = imported(f.HEALTHBENCH, "healthbench")
    changed = {**content, "criteria": [{**content["criteria"][0], "weight": 7}, *content["criteria"][1:]]}
    assert rubrics.write(changed, "healthbench", {})["rubrics"][0]["points"] == 7
    assert rubrics.write(changed, "healthbench", {})["rubrics"][1:] == f.HEALTHBENCH["rubrics"][1:]
    content, _ = imported(SCORED, "openai_grader")
    content["criteria"][0]["text"] += " Be strict."
    with pytest.raises(FormatError, match="has changed since"):
        rubrics.write(content, "openai_grader", {})


def test_graders_of_openai_as_criteria():
    (right,) = imported(EQUAL, "openai_grader")[0]["criteria"]
    assert right["key"] == "right"
    assert right["grader"] == {
        "type": "exact",
        "reference": "{{ prompt.metadata.answer }}",
        "ignore_case": False,
        "strip": False,
    }
    (differs,) = imported({**EQUAL, "operation": "ne"}, "openai_grader")[0]["criteria"]
    assert differs["polarity"] == "met_is_bad"
    (holds,) = imported({**EQUAL, "operation": "ilike"}, "openai_grader")[0]["criteria"]
    assert (holds["grader"]["type"], holds["grader"]["ignore_case"]) == ("contains", True)
    (near,) = imported(NEAR, "openai_grader")[0]["criteria"]
    assert (near["grader"]["reference"], near["scale"]["type"]) == ("{{ prompt.reference }}", "unit")
    content, found = imported(SCORED, "openai_grader")
    (kind,) = content["criteria"]
    assert kind["text"].startswith(
        "Score kindness from 0 to 10.\n\nQ: [the prompt] A: [the completion] ({{ prompt.metadata.lang }})"
    )
    assert kind["text"].endswith("the verdict is (x - 0) / 10.")
    assert [note.pointer for note in found.notes] == ["/input/1/content", "/range"]
    (tone,) = imported(LABELLED, "openai_grader")[0]["criteria"]
    assert [(level["label"], level["value"]) for level in tone["scale"]["levels"]] == [
        ("rude", 0),
        ("plain", 1),
        ("warm", 1),
    ]


@pytest.mark.parametrize("graders", [{"a": EQUAL, "b": NEAR}, [{**EQUAL, "name": "a"}, {**NEAR, "name": "b"}]])
def test_a_multi_of_verifiers_is_its_formula(graders):
    (one,) = imported(multi("min(a, 1 - b) ^ 2", graders), "openai_grader")[0]["criteria"]
    assert one["grader"]["formula"] == "min(a, 1 - b) ^ 2"
    assert set(one["grader"]["graders"]) == {"a", "b"}


def test_a_multi_of_one_grader_alone_and_a_negated_one():
    alone = multi("0.5 * right", EQUAL)  # as the specification's types have it
    assert imported(alone, "openai_grader")[0]["criteria"][0]["grader"]["formula"] == "0.5 * right"
    negated = multi("a * a2", {"a": {**EQUAL, "operation": "ne"}, "a2": NEAR})
    assert imported(negated, "openai_grader")[0]["criteria"][0]["grader"]["formula"] == "(1 - a) * a2"


def test_a_weighted_sum_with_models_gives_the_formulas_value():
    formula = "0.5*right + kind/20"  # kind lies in [0, 10]
    content, found = imported(multi(formula, {"right": EQUAL, "kind": SCORED}), "openai_grader")
    weights = criterion_weights(RubricContent.model_validate({"criteria": content["criteria"]}).criteria)
    # right 1, kind 8 of 10: 0.5 + 8/20 = 0.9
    assert plain_reward(weights, {"right": ScoredCell(1.0), "kind": ScoredCell(0.8)}) == pytest.approx(0.9)
    assert not any("divided by" in note.message for note in found.notes)
    _, found = imported(multi("right + kind/10", {"right": EQUAL, "kind": SCORED}), "openai_grader")
    assert any("divided by 2" in note.message for note in found.notes)


def test_python_graders_keep_their_source_and_stand_alone():
    code = {
        "type": "python",
        "name": "code",
        "source": "def grade(sample, item):\n    return 1.0",
        "image_tag": "2025-05-08",
    }
    content, found = imported(code, "openai_grader")
    assert content["criteria"][0]["grader"]["source"] == code["source"]
    assert found.notes[0].pointer == "/source"
    assert same(rubrics.write(content, "openai_grader", {}), code)
    document = multi("0.25 * code + 0.75 * right", {"code": code, "right": EQUAL})
    content, _ = imported(document, "openai_grader")
    assert {c["key"]: c["weight"] for c in content["criteria"]} == {"code": 0.25, "right": 0.75}
    assert same(rubrics.write(content, "openai_grader", {}), document)


@pytest.mark.parametrize(
    ("document", "format_name", "options", "place", "code"),
    [
        # The specification's own example has a parenthesis too many.
        (multi("0.5 * a + 0.5 * b)", {"a": EQUAL, "b": NEAR}), "openai_grader", {}, "/calculate_output", "formula_parse_error"),
        (multi("a + c", {"a": EQUAL, "b": NEAR}), "openai_grader", {}, "/calculate_output", "invalid_variable_error"),
        (multi("a * k", {"a": EQUAL, "k": SCORED}), "openai_grader", {}, "/calculate_output", "not_a_weighted_sum"),
        (multi("max(a, k)", {"a": EQUAL, "k": SCORED}), "openai_grader", {}, "/calculate_output", "not_a_weighted_sum"),
        (multi("(a > k) + k", {"a": EQUAL, "k": SCORED}), "openai_grader", {}, "/calculate_output", "not_a_weighted_sum"),
        (multi("(a == k) + k", {"a": EQUAL, "k": SCORED}), "openai_grader", {}, "/calculate_output", "not_a_weighted_sum"),
        (multi("a - k", {"a": EQUAL, "k": SCORED}), "openai_grader", {}, "/calculate_output", "not_a_weighted_sum"),
        (multi("__import__('os')", {"a": EQUAL}), "openai_grader", {}, "/calculate_output", "formula_parse_error"),
        (multi("m", {"m": multi("a", {"a": EQUAL})}), "openai_grader", {}, "/graders", "cannot_nest"),
        ({**EQUAL, "operation": "contains"}, "openai_grader", {}, "/operation", "invalid_operation"),
        ({**EQUAL, "input": "{{ sample.output_json.x }}"}, "openai_grader", {}, "/input", "unsupported_input"),
        ({**EQUAL, "reference": "{{ item['x'] }}"}, "openai_grader", {}, "/reference", "invalid_template"),
        ({**NEAR, "evaluation_metric": "cosine"}, "openai_grader", {}, "/evaluation_metric", "unsupported_metric"),
        ({**LABELLED, "passing_labels": ["kind"]}, "openai_grader", {}, "/passing_labels/0", "unknown_label"),
        (SCORED, "openai_grader", {"judge": None}, "/model", "judge_needed"),
        ({**SCORED, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "openai_grader", {},
         "/input/0/content/0", "invalid_content"),
        ({"type": "vibes"}, "openai_grader", {}, "/type", "unknown_type"),
        (f.RAR, "rar", {"polarity": None}, "/rubric/3/polarity", "polarity_needed"),
        (f.RAR, "rar", {"polarity": "ask"}, "/rubric/3/polarity", "undecided"),
        ([f.HEALTHBENCH, f.HEALTHBENCH], "healthbench", {}, "", "many_rows"),
        ({"name": "x", "content": {}, "weigths": 1}, "json", {}, "/weigths", "unknown_field"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(document, format_name, options, place, code):
    with pytest.raises(FormatError) as caught:
        imported(document, format_name, **options)
    assert (caught.value.faults[0].pointer, caught.value.faults[0].code) == (place, code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"a: &x [1]\nb: *x\n", "yaml_invalid"),  # a bomb is made of these
        (b"a: 1\na: 2\n", "yaml_invalid"),
        (b"a: !!python/object/apply:os.system [ls]\n", "yaml_invalid"),
        (b"a: .nan\n", "not_json"),
        (b'a: "\\0"\n', "nul_character"),
        (b"a: [\n", "yaml_invalid"),
        (b"\xff", "not_utf8"),
        (b"[" * 100_000, "yaml_invalid"),
    ],
)
def test_yaml_that_is_no_json_is_refused(text, code):
    with pytest.raises(FormatError) as caught:
        rubrics.parse(text, "yaml")
    assert caught.value.faults[0].code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"criteria": [], "criteria": []}', "duplicate_field"),
        (b"[" * 150 + b"]" * 150, "too_deep"),
        (b"[" * 100_000, "json_invalid"),
        (b"[1e999]", "not_json"),
        (b'["\\ud800"]', "not_json"),
        (b'["\\u0000"]', "nul_character"),
    ],
)
def test_json_that_cannot_be_stored_is_refused(text, code):
    with pytest.raises(FormatError) as caught:
        rubrics.parse(text, "json")
    assert caught.value.faults[0].code == code


def test_dates_in_yaml_stay_texts():
    assert rubrics.parse(b"a: 2026-11-25\nb: [yes, 1.0]", "yaml") == {"a": "2026-11-25", "b": [True, 1.0]}


def test_many_rows_belong_into_a_dataset():
    with pytest.raises(FormatError, match="datasets"):
        rubrics.parse(b'{"rubrics": []}\n{"rubrics": []}\n', "healthbench")


# --- the numbers of reference/rubrics.md §3 ---


def healthbench_score(items, as_prompts):
    """The benchmark's score of one completion: items are (points, met), in a file of the format."""
    row = {"prompt_id": "p", "prompt": [{"role": "user", "content": "?"}], "example_tags": [],
           "rubrics": [{"criterion": f"says {k}", "points": p, "tags": []} for k, (p, _) in enumerate(items)]}  # fmt: skip
    if as_prompts:
        prompt = Importer("prompts", options=Options(judge=f.JUDGE)).read(row)
        prompt["criteria"] = [{"key": str(k), **c} for k, c in enumerate(prompt["criteria"])]
        rubric = RubricContent.model_validate(
            {"criteria": [{"key": "a", "audit": True, "grader": {"type": "regex", "pattern": "."}},
                          {"key": "x", "weight": 1, "applies_to": {"tags": ["none"]}, "grader": {"type": "regex", "pattern": "."}}]}
        )  # fmt: skip
        criteria = [c for c in criteria_of(rubric, prompt) if not c.audit]
    else:
        criteria = RubricContent.model_validate({"criteria": imported(row, "healthbench")[0]["criteria"]}).criteria
    weights = criterion_weights(criteria)
    cells = {w.key: ScoredCell(float(met != w.met_is_bad)) for w, (_, met) in zip(weights, items, strict=True)}
    group = score_group(weights, [cells], ScoringOptions(weighting="healthbench"))
    return group.completions[0].reward


@pytest.mark.parametrize("as_prompts", [False, True])
@pytest.mark.parametrize(
    ("items", "score"),
    [
        ([(10, True), (5, False), (-8, True)], 0.133333),
        ([(10, False), (5, False), (-8, True)], -0.533333),
        ([(-8, True)], None),
    ],
)
def test_healthbench_scores(items, score, as_prompts):
    found = healthbench_score(items, as_prompts)
    assert found is None if score is None else found == pytest.approx(score, abs=1e-6)


def test_healthbench_clips_the_mean_and_not_each_example():
    low = healthbench_score([(10, False), (-8, True)], False)
    high = healthbench_score([(10, True), (-8, False)], False)
    assert (low, high) == (pytest.approx(-0.8), pytest.approx(1.0))
    assert min(1.0, max(0.0, mean([low, high]))) == pytest.approx(0.1)


def test_rar_explicit_rewards():
    """E met, I unmet, O met, P met, a pitfall that is avoided: (1.0 + 0.3 + 0.9)/2.9."""
    content, _ = imported(f.rar_row(f.AVOIDS), "rar", weights="paper")
    weights = criterion_weights(RubricContent.model_validate({"criteria": content["criteria"]}).criteria)
    assert [w.weight for w in weights] == [1.0, 0.7, 0.3, 0.9]
    met = (True, False, True, True)
    cells = {w.key: ScoredCell(float(m != w.met_is_bad)) for w, m in zip(weights, met, strict=True)}
    assert plain_reward(weights, cells) == pytest.approx(0.758621, abs=1e-6)
    # The same pitfall named as a failure: not meeting it is as good.
    content, _ = imported(f.rar_row(f.FAILS), "rar", weights="paper")
    weights = criterion_weights(RubricContent.model_validate({"criteria": content["criteria"]}).criteria)
    met = (True, False, True, False)
    cells = {w.key: ScoredCell(float(m != w.met_is_bad)) for w, m in zip(weights, met, strict=True)}
    assert plain_reward(weights, cells) == pytest.approx(0.758621, abs=1e-6)


def test_the_canonical_json_of_an_imported_content_can_be_stored():
    content, _ = imported(f.RAR, "rar")
    assert json.loads(canonical_json(content)) == content
