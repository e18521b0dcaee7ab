"""What answers that say nothing may do: pass nobody (reference/rubrics.md §5.3 #23)."""

from service.domain.master_keys import MASTER_KEYS, probed


def rows(**passed):
    """Scores of every key: 1 for those that pass, null for "?"."""
    return [
        {key: (None if them == "?" else float(answer in them)) for key, them in passed.items()}
        for answer in MASTER_KEYS
    ]


def test_ten_keys_and_nothing_at_all():
    assert len(set(MASTER_KEYS)) == 11
    assert "" in MASTER_KEYS


def test_one_that_passes_is_an_alarm():
    found = probed({"a": True, "b": True}, rows(a=(), b=("Solution",)))
    assert (found.criteria["a"].share, found.criteria["b"].share) == (0.0, 1 / 11)
    assert found.criteria["b"].answers == ["Solution"]
    assert found.alarm
    assert "pass 'b':" in found.message
    assert not probed({"a": True}, rows(a=())).alarm


def test_what_has_no_faults_has_no_faults():
    found = probed({"invents": False}, rows(invents=MASTER_KEYS))
    assert (found.criteria, found.alarm, found.message) == ({}, False, None)


def test_what_nobody_judged_is_counted_and_no_pass():
    found = probed({"a": True}, rows(a="?"))
    assert (found.criteria["a"].share, found.criteria["a"].unjudged, found.alarm) == (None, 11, False)
