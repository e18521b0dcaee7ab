"""The side-by-side benchmark's data and report; what it measures needs the peers and is run by hand."""

import pytest

from benchmarks.trainers.measure import Measured
from benchmarks.trainers.report import as_json, markdown
from benchmarks.trainers.rows import ROWS
from benchmarks.trainers.sizes import EOS, FULL, QUICK, Data


def test_lengths_are_spread_from_an_eighth_of_the_limit_to_the_limit():
    lengths = [n for step in range(200) for n in Data(FULL).lengths(step)]
    assert (min(lengths), max(lengths)) == (8, 64)
    assert sum(lengths) / len(lengths) == pytest.approx(36, abs=0.5)
    assert set(Data(FULL, fixed=True).lengths(0)) == {64}


def test_completions_have_those_lengths_and_end_once():
    data = Data(FULL)
    for tokens, length in zip(data.completions(3), data.lengths(3), strict=True):
        assert len(tokens) == length
        assert tokens[-1] == EOS
        assert EOS not in tokens[:-1]


def test_half_of_the_groups_have_no_spread():
    rewards = Data(QUICK).rewards(half=True)
    groups = [rewards[k : k + QUICK.group] for k in range(0, len(rewards), QUICK.group)]
    assert [len(set(group)) > 1 for group in groups] == [True, False]


def test_demonstrations_are_ragged_between_the_stated_sizes():
    wholes = [len(prompt) + len(completion) for prompt, completion in Data(FULL).demonstrations()]
    assert min(wholes) >= 32
    assert max(wholes) <= 256
    assert len(set(wholes)) > 10


def test_ours_is_compared_with_the_fastest_tuned_peer():
    """Steps of 1 s for 16 pairs, but .5 s for one tuned peer and .25 s for us: twice the best, four times the defaults."""
    row = ROWS["reward"]
    seconds = {c.name: 1.0 for c in row.contenders} | {"trl-quarters-fp32": 0.5, "ours-auto": 0.25}
    steps = {name: [{"seconds": s, "units": 16, "memory": 1e8 * s}] * 5 for name, s in seconds.items()}
    found = Measured(row, steps)
    line = next(line for line in markdown([found]).splitlines() if "pairs/s" in line)
    assert "trl-quarters-fp32 | **2.00** | 1.3 | reached" in line
    measured = as_json([found], {})["rows"][0]["measures"][0]
    assert measured["times_tuned"] == 2.0
    assert found.memory("ours-auto") == pytest.approx(25)
