"""The linter's rules on grading, overlap, weights and applicability: what makes each speak, and what must not."""

import pytest

from service.domain.includes import flatten
from service.domain.lint import JudgeFacts, Subject, shares_of
from service.domain.lint.ambiguity import is_exponential
from service.domain.rubric import AuthoredContent, RubricContent
from tests.support.lint import JUDGE, REGEX, TOLD, findings, judged, said, verified


def test_a_careful_rubric_has_no_findings():
    levels = [
        {"label": "none", "value": 0, "anchor": "no step is shown"},
        {"label": "some", "value": 0.5, "anchor": "the first step is shown"},
        {"label": "all", "value": 1, "anchor": "each step is shown with its reason"},
    ]
    assert findings(
        judged("The final number equals the reference.", "correct", weight=3),
        judged("Each step of the calculation is shown.", "steps", weight=2, scale={"type": "ordinal", "levels": levels}),
        judged("Claims a fact that the sources contradict.", "invents", weight=2, polarity="met_is_bad",
               gate={"mode": "cap", "cap": 0.25}, grader={**JUDGE, "votes": 3}),
        verified("^.{0,400}$", "short"),
        {"key": "u", "audit": True, "grader": {"type": "exact", "reference": "x"}},
    ) == []  # fmt: skip


# --- gates, confidence, scales, patterns ---


def test_gates_on_few_votes():
    gated = judged(gate={"mode": "required"})
    assert said("gate_with_few_votes", gated) == ["/criteria/0/gate"]
    assert said("gate_with_few_votes", gated, facts={"judges": {"jdg_0": JudgeFacts(votes=3)}}) == []
    assert said("gate_with_few_votes", {**gated, "grader": {**JUDGE, "votes": 3}}) == []
    assert said("gate_with_few_votes", {**gated, "grader": {**JUDGE, "votes": 2}}) == ["/criteria/0/gate"]
    assert said("gate_with_few_votes", judged(), verified(gate={"mode": "required"})) == []


def test_judges_without_confidence():
    silent = {**JUDGE, "confidence": "none"}
    code = "judge_without_confidence"
    assert said(code, judged(grader=silent)) == ["/criteria/0/grader"]
    assert said(code, judged(), facts={"judges": {"jdg_0": JudgeFacts(confidence="none")}}) == ["/criteria/0/grader"]
    assert said(code, judged(grader={**JUDGE, "confidence": "votes", "votes": 3})) == []
    assert said(code, judged(grader=silent, default_confidence=0.5)) == []
    assert said(code, judged(grader=silent), aggregation={"weighting": "uniform"}) == []
    assert said(code, judged(grader=silent, audit=True), verified()) == []
    assert said(code, judged()) == []


def scale(*levels, kind="ordinal", anchor="says so"):
    return {"type": kind, "levels": [{"label": label, "value": value, "anchor": anchor} for label, value in levels]}


def test_scales():
    bare = judged(scale=scale(("poor", 0), ("good", 1), anchor=""))
    assert said("unanchored_levels", bare) == ["/criteria/0/scale/levels"]
    sentences = judged(scale=scale(("no step is shown", 0), ("every step is shown", 1), anchor=""))
    assert said("unanchored_levels", sentences, judged(key="b", scale=scale(("poor", 0), ("good", 1)))) == []
    assert said("unanchored_levels", judged(scale=scale(("red", 0), ("blue", 1), kind="nominal", anchor=""))) == []
    assert said("disordered_levels", judged(scale=scale(("a", 0), ("b", 1), ("c", 0.5)))) == [
        "/criteria/0/scale/levels"
    ]
    assert said("disordered_levels", judged(scale=scale(("a", 1), ("b", 0.5), ("c", 0)))) == []
    assert said("ordered_nominal_scale", judged(scale=scale(("a", 0), ("b", 0.5), ("c", 1), kind="nominal"))) == [
        "/criteria/0/scale/levels"
    ]
    assert said("ordered_nominal_scale", judged(scale=scale(("a", 0), ("b", 1), ("c", 0), kind="nominal"))) == []
    assert said("ordered_nominal_scale", judged(scale=scale(("a", 0), ("b", 1), kind="nominal"))) == []
    assert said("flat_scale", judged(scale=scale(("a", 1), ("b", 1)))) == ["/criteria/0/scale/levels"]


SLOW = [
    r"(a+)+$", r"(a|aa)+$", r"^(\w+\s?)*$", r"(\w+x)+$", r"(\s*\w+\s*)*$", r"^([\w.-]+\.)+[a-z]+$", r"(.*?,){11}P", r"(a*)*b",
    r"(?:x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(\d+|\w+)*;", r"(a|a)*$", r"^(?:a?b?)*$x", r"(https?://[^\s]+\s*)+$",
]  # fmt: skip
FAST = [
    r"(a+)+", r"^(\d+,)+\d+$", r"^.{0,400}$", r"^(\w+ )*\w+$", r".*foo.*bar", r"^\d+(\.\d+)?$", r"(?:ab|ac)+$", r"^(?>a+)+$",
    r"(a++)+$", r"\b(yes|no)\b", r"^[^\n]*\n[^\n]*$", r"^- .+(\n- .+)*$", r"(?s)^.*$", r"^(\s*- .*\n)+$", "[", r"^(a{1,3}b)+$",
    r"\p{L}+$", r"^```json\n(.*\n)+```$", r"(foo|bar|baz)*$", r"^([^,]*,){3}[^,]*$", r"^#+ .*$", r"(a?)*$",
    r"^(\+\d{1,2}\s)?\(?\d{3}\)?[\s.-]\d{3}[\s.-]\d{4}$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SLOW)
def test_patterns_that_can_take_for_ever(pattern):
    assert is_exponential(pattern)


@pytest.mark.parametrize("pattern", FAST)
def test_patterns_that_end(pattern):
    assert not is_exponential(pattern)


def test_a_pattern_that_is_called_slow_is_slow():
    """The verifier's own matcher gives up on it, and not on its repaired twin."""
    import regex

    text = "a" * 60 + "!"
    with pytest.raises(TimeoutError):
        regex.compile(r"(a|aa)+$").search(text, timeout=0.3)
    assert is_exponential(r"(a|aa)+$")
    assert regex.compile(r"(?:aa)*a?$").search(text, timeout=5) is not None
    assert not is_exponential(r"(?:aa)*a?$")


def test_slow_patterns_are_found_wherever_they_stand():
    graders = [
        ({"type": "regex", "pattern": "(a+)+$"}, "/pattern"),
        ({"type": "numeric", "reference": "1", "extract": "regex:(a+)+$"}, "/extract"),
        (
            {"type": "json_schema", "schema": {"properties": {"x": {"pattern": "(a+)+$"}}}},
            "/schema/properties/x/pattern",
        ),
        (
            {"type": "composite", "formula": "p", "graders": {"p": {"type": "regex", "pattern": "(a+)+$"}}},
            "/graders/p/pattern",
        ),
    ]
    for grader, below in graders:
        assert said("slow_regex", {"key": "a", "weight": 1, "grader": grader}) == [f"/criteria/0/grader{below}"]


# --- overlap ---


def test_duplicates():
    again = judged("The answer names the capital of the country in question!", "b")
    assert said("duplicate_criteria", judged(), again) == ["/criteria/1"]
    longer = judged("names the capital of the country in the user's question about Europe", "a")
    assert said("duplicate_criteria", longer, {**longer, "key": "b", "text": f"clearly {longer['text']}"}) == [
        "/criteria/1"
    ]
    assert said("duplicate_criteria", verified(), verified(key="w")) == ["/criteria/1"]


@pytest.mark.parametrize(
    "other",
    [
        judged("names the capital of the region in question", "b"),
        judged("does not name the capital of the country in question", "b"),
        judged(TOLD, "b", polarity="met_is_bad"),
        judged(TOLD, "b", applies_to={"categories": ["y"]}),
        verified(),
        judged("names 2 capitals of the country in question", "b"),
    ],
)
def test_no_duplicates(other):
    assert said("duplicate_criteria", judged(applies_to={"categories": ["x"]}), other) == []


def test_duplicates_over_modules_stand_at_the_include():
    module = {"criteria": [judged(key="m")]}
    assert said("duplicate_criteria", judged(), included=[(1, module)]) == ["/includes/0"]


def test_audits_that_repeat():
    audit = judged(key="u", audit=True)
    assert said("audit_repeats_trained", judged(), audit) == ["/criteria/1"]
    assert said("audit_repeats_trained", judged(), {**audit, "grader": {**JUDGE, "judge": "jdg_1"}}) == []
    assert said("audit_repeats_trained", judged(), judged("cites a source for the claim", "u", audit=True)) == []


# --- weights ---


def test_modules_and_their_shares():
    module = {"criteria": [judged(f"is about topic {k}", f"c{k}", weight=3) for k in range(3)]}
    assert said("dominant_module", judged(weight=1), included=[(1, module)]) == ["/includes/0/weight"]
    assert said("dominant_module", judged(weight=1), included=[(0.1, module)]) == []
    assert said(
        "dominant_module", judged(weight=50), judged("cites a source", "b", weight=49), included=[(1, module)]
    ) == ["/criteria"]
    assert said("dominant_module", *module["criteria"]) == []
    authored = AuthoredContent.model_validate(
        {"criteria": [judged(weight=1)], "includes": [{"as": "m", "rubric": "rub_0", "weight": 0.5}]}
    )
    contents = [RubricContent.model_validate(module)]
    found = shares_of(Subject(authored, flatten(authored, contents), contents))
    assert found.modules == {"": pytest.approx(1 / 5.5), "m": pytest.approx(4.5 / 5.5)}
    assert found.criteria["m.c0"] == pytest.approx(1.5 / 5.5)


def test_criteria_that_drown_the_others():
    others = [judged(f"is about topic {k}", f"c{k}") for k in range(2)]
    assert said("dominant_criterion", *others, verified(weight=8)) == ["/criteria/2/weight"]
    assert said("dominant_criterion", *others, verified(weight=2)) == []
    assert said("dominant_criterion", others[0], verified(weight=5)) == []
    assert said("dominant_criterion", others[0], verified(weight=20)) == ["/criteria/1/weight"]
    assert said("dominant_criterion", verified(weight=20)) == []


def test_weights_that_do_nothing():
    assert said("weight_extremes", judged(weight=0.001), verified()) == ["/criteria/0/weight"]
    assert said("weight_extremes", judged(weight=0.01), verified()) == []
    audit = {"key": "u", "audit": True, "weight": 1e-6, "grader": REGEX}
    assert said("weight_extremes", verified(), audit) == []


# --- applicability ---


def test_conditions():
    only = judged(applies_to={"categories": ["code"], "tags": ["hard"]})
    assert said("never_applies", only, facts={"category": "maths"}) == ["/criteria/0/applies_to/categories"]
    assert said("never_applies", only, facts={"category": "code"}) == []
    assert said("never_applies", only) == []
    assert said("nothing_for_other_prompts", only) == ["/criteria"]
    assert said("nothing_for_other_prompts", only, verified()) == []
    known = {"categories": frozenset({"codes"}), "tags": frozenset({"hard"})}
    assert said("unused_condition", only, facts=known) == ["/criteria/0/applies_to/categories/0"]
    (finding,) = [f for f in findings(only, facts=known) if f.code == "unused_condition"]
    assert "did you mean 'codes'" in finding.message
    assert said("unused_condition", only) == []


def test_a_modules_system_prompt_is_not_used():
    module = {"system_prompt": "Be brief.", "criteria": [judged("cites a source", "m")]}
    assert said("included_system_prompt", verified(), included=[(1, module)]) == ["/includes/0"]
    assert said("included_system_prompt", verified(), included=[(1, {"criteria": module["criteria"]})]) == []


def test_warnings_come_first():
    found = findings(judged("uses an appropriate tone"), judged("is clear and concise", "b"))
    assert [f.severity for f in found] == ["warning", "info"]
