"""What a person reads when a rubric has changed."""

from service.domain.diff import diff, shares
from service.domain.rubric import Include, RubricContent

REGEX = {"type": "regex", "pattern": "x"}
LEVELS = [{"label": "poor", "value": 0, "anchor": "a"}, {"label": "good", "value": 1, "anchor": "b"}]


def criterion(key, weight=1, **changes):
    return {"key": key, "weight": weight, "grader": REGEX, **changes}


def judged(key, weight=1, text="is right", **grader):
    return {"key": key, "weight": weight, "text": text, "grader": {"type": "judge", "judge": "jdg_0", **grader}}


def content(*criteria, **rest):
    return RubricContent.model_validate({"criteria": list(criteria), **rest})


def changes(fields):
    return [(f.pointer, f.before, f.after) for f in fields]


def test_nothing_has_changed():
    found = diff(content(criterion("a")), content({**criterion("a"), "title": "", "audit": False}))
    assert found.equal
    assert found.text == "no difference"
    assert [(s.key, s.share_before, s.share_after) for s in found.shares] == [("a", 1.0, 1.0)]


def test_criteria_come_go_and_are_renamed():
    found = diff(
        content(criterion("a"), criterion("old", title="Old"), judged("same", 3)),
        content(criterion("a"), judged("other name", 3) | {"key": "other"}, judged("new", 4, "is kind")),
    )
    assert [c.key for c in found.criteria.added] == ["new"]
    assert [c.key for c in found.criteria.removed] == ["old"]
    assert [(r.before, r.after) for r in found.criteria.renamed] == [("same", "other")]
    assert found.criteria.changed == []
    assert "+ criterion 'new' (weight 4, judge): is kind" in found.text
    assert "- criterion 'old' (weight 1, regex): Old" in found.text
    assert "~ criterion 'same' is now 'other'" in found.text
    # Σw is 5 before and 8 after; a renamed criterion keeps its history
    assert {s.key: (s.share_before, s.share_after) for s in found.shares} == {
        "a": (0.2, 0.125), "other": (0.6, 0.375), "new": (None, 0.5), "old": (0.2, None),
    }  # fmt: skip


def test_of_two_equal_criteria_each_is_renamed_once():
    found = diff(content(criterion("a"), criterion("b")), content(criterion("c"), criterion("d"), criterion("e")))
    assert [(r.before, r.after) for r in found.criteria.renamed] == [("a", "c"), ("b", "d")]
    assert [c.key for c in found.criteria.added] == ["e"]


def test_a_changed_criterion_shows_the_innermost_fields():
    before = judged("a", 5, "is right", votes=1) | {"scale": {"type": "ordinal", "levels": LEVELS}}
    moved = [LEVELS[0], {**LEVELS[1], "value": 0.9}]
    after = judged("a", 3, "is quite right", votes=3) | {"scale": {"type": "ordinal", "levels": moved}, "tags": ["t"]}
    (change,) = diff(content(before), content(after)).criteria.changed
    assert {pointer: (old, new) for pointer, old, new in changes(change.fields)} == {
        "/weight": (5.0, 3.0),
        "/text": ("is right", "is quite right"),
        "/scale/levels/1/value": (1.0, 0.9),
        "/tags": ([], ["t"]),
        "/grader/votes": (1, 3),
    }


def test_what_changes_its_kind_changes_as_a_whole():
    (change,) = diff(content(judged("a")), content(judged("a") | {"grader": REGEX})).criteria.changed
    (field,) = change.fields
    assert field.pointer == "/grader"
    assert (field.before["type"], field.after["type"]) == ("judge", "regex")
    two = [{**level, "label": str(k)} for k, level in enumerate([*LEVELS, LEVELS[1]])]
    more = judged("a") | {"scale": {"type": "ordinal", "levels": two}}
    (change,) = diff(
        content(judged("a") | {"scale": {"type": "ordinal", "levels": LEVELS}}), content(more)
    ).criteria.changed
    assert [f.pointer for f in change.fields] == ["/scale/levels"]


def test_an_absent_field_and_its_default_are_the_same():
    gate = {"mode": "required"}
    (change,) = diff(content(criterion("a")), content(criterion("a", gate=gate))).criteria.changed
    assert changes(change.fields) == [("/gate", None, {"mode": "required", "threshold": 0.5, "cap": None})]
    assert not diff(
        content(criterion("a", gate=gate)), content(criterion("a", gate={**gate, "threshold": 0.5}))
    ).criteria.changed


def test_texts_are_told_line_by_line():
    before = content(criterion("a"), guidelines="one\ntwo\nthree\nfour\nfive\nsix", system_prompt="Be brief.")
    after = content(criterion("a"), guidelines="one\ntwo\nthree\nfour\nfive\nseven")
    found = diff(before, after)
    assert found.guidelines == ["@@ -4,3 +4,3 @@", " four", " five", "-six", "+seven"]
    assert found.system_prompt == ["@@ -1 +0,0 @@", "-Be brief."]
    assert "~ guidelines\n    @@ -4,3 +4,3 @@\n     four" in found.text


def test_aggregation_includes_and_order():
    before = content(criterion("a"), criterion("b", 3), aggregation={"weighting": "uniform"})
    after = content(criterion("b", 3), criterion("a"), aggregation={"min_coverage": 0.7})
    old = [Include.model_validate({"as": "m", "rubric": "rub_1", "version": 2, "weight": 0.5})]
    new = [Include.model_validate({"as": "m", "rubric": "rub_1", "version": 3, "weight": 0.5})]
    found = diff(before, after, old, new)
    assert changes(found.aggregation) == [("/weighting", "uniform", None), ("/min_coverage", None, 0.7)]
    assert changes(found.includes) == [("/m/version", 2, 3)]
    assert found.criteria.reordered
    assert not found.equal
    assert found.criteria.changed == []
    assert "m.version: 2 → 3" in found.text
    assert "weighting: uniform → none" in found.text
    assert "another order" in found.text
    assert "share of" not in found.text


def test_the_same_content_by_another_include_is_equal_and_told():
    one = content(criterion("m.a"))
    old = [Include.model_validate({"as": "m", "rubric": "rub_1", "version": 2})]
    found = diff(one, one, old, [])
    assert found.equal
    assert changes(found.includes) == [("/m", {"rubric": "rub_1", "version": 2, "weight": 1.0}, None)]
    assert found.text.startswith("~ includes")


def test_audit_criteria_have_no_share():
    audit = {"key": "u", "audit": True, "grader": REGEX}
    assert shares(content(criterion("a"), criterion("b", 3), audit).criteria) == {"a": 0.25, "b": 0.75}
    trained = {**audit, "audit": False, "weight": 4}
    (share,) = [
        s for s in diff(content(criterion("a"), audit), content(criterion("a"), trained)).shares if s.key == "u"
    ]
    assert (share.weight_before, share.share_before, share.weight_after, share.share_after) == (None, None, 4, 0.8)
