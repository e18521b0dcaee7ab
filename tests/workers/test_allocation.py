"""Dividing an endpoint's slots and its minute: what must hold for any workers, any demands, any moments."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.graders.judge.gate import LATE_S
from workers.graders.judge.terms import Terms
from workers.runs.allocation import HORIZON_S, Ceiling, Clocks, Holder, fair_shares, grant, limit_of, take_turns

DEMANDS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 40), min_size=1, max_size=6)


@given(st.integers(0, 100), DEMANDS, st.integers(0, 1000))
def test_shares_are_max_min_fair(limit, demands, turn):
    shares = fair_shares(limit, demands, turn)
    assert set(shares) == set(demands)
    assert all(0 <= shares[name] <= demands[name] for name in demands)
    assert sum(shares.values()) == min(limit, sum(demands.values()))  # nothing is left over while somebody wants it
    for a, b in itertools.permutations(demands, 2):
        if shares[a] < demands[a]:  # who goes short has at most one slot less than anybody
            assert shares[b] <= shares[a] + 1


def test_the_odd_slot_goes_round():
    shares = [fair_shares(1, {"a": 5, "b": 5}, turn) for turn in range(4)]
    assert [s["a"] for s in shares] == [1, 0, 1, 0]


@given(st.data())
def test_the_slots_of_all_never_grow_above_the_limit(data):
    """Workers come in any order with any demand, and may hold on to what they were given for as long as they like."""
    limit = data.draw(st.integers(1, 20))
    slots = dict.fromkeys("abcd", 0)
    demand = dict.fromkeys("abcd", 0)
    for _ in range(30):
        name = data.draw(st.sampled_from("abcd"))
        demand[name] = data.draw(st.integers(0, 30))
        hold = data.draw(st.integers(0, slots[name]))
        others = [Holder(n, limit, demand[n], slots[n]) for n in "abcd" if n != name]
        taken = sum(h.slots for h in others)
        slots[name], due = grant(Holder(name, limit, demand[name], hold), others, taken, None, 0)
        assert sum(slots.values()) <= limit
        assert slots[name] == max(hold, due)


def test_nothing_lies_idle_once_everybody_has_come_twice():
    slots = {"a": 16, "b": 0}
    for name in "abab":
        (other,) = {"a", "b"} - {name}
        hold = min(slots[name], 8)  # calls end, and what is above the share is given back
        slots[name], _ = grant(Holder(name, 16, 99, hold), [Holder(other, 16, 99, slots[other])], slots[other], None, 0)
    assert slots == {"a": 8, "b": 8}


def test_calls_of_a_lapsed_lease_count_and_are_followed_by_none():
    back, other = Holder("a", 6, 20, 3), Holder("b", 6, 20, 6)
    assert grant(back, [other], 6, None, 0) == (3, 0)
    assert grant(back, [Holder("b", 6, 20, 4)], 4, None, 0) == (3, 2)


def test_the_strictest_judge_that_is_asked_counts():
    idle, strict, lax = Holder("x", 1, 0, 0), Holder("a", 4, 2, 0), Holder("b", 16, 9, 0)
    assert limit_of([idle, strict, lax], None) == 4
    assert limit_of([idle, lax], None) == 16
    assert limit_of([lax], 5.9) == 5
    assert limit_of([lax], 0.2) == 1  # an endpoint is never shut for good
    assert limit_of([idle], None) == 0


def test_a_ceiling_is_back_after_two_seconds():
    # half of 64 is missing, and a quarter of 64 comes back per second
    ceiling = Ceiling(32.0, 100.0)
    assert [ceiling.at(100.0 + t, 64) for t in (0, 1, 1.9, 2)] == [32, 48, pytest.approx(62.4), None]
    assert Ceiling(1.0, 0.0).at(0.5, 2) == 1.5  # at least one a second


@given(st.integers(1, 600), st.integers(0, 10_000))
def test_no_minute_has_too_many_requests(per_minute, seed):
    """Workers take turns at any moments, and start each call as late as is allowed or at once."""
    rng = random.Random(seed)
    terms, clocks, now, starts = Terms(64, float(per_minute)), Clocks(0.0, 0.0), 1000.0, []
    while now < 1200:
        turns, clocks = take_turns(
            clocks, terms, now=now, wanted=rng.randint(0, 40), tokens=rng.randint(0, 50), overspent=0.0
        )
        assert all(now <= t <= now + HORIZON_S for t in turns)
        starts.extend(t + rng.choice([0.0, LATE_S]) for t in turns)
        now += rng.uniform(0.05, 3.0)
    starts.sort()
    for k in range(len(starts) - per_minute):
        assert starts[k + per_minute] - starts[k] >= 60.0


def test_turns_keep_the_rate_up():
    """Asked often enough, a minute is used to 99 %."""
    terms, clocks, count = Terms(64, 600.0), Clocks(0.0, 0.0), 0
    for tick in range(600):
        turns, clocks = take_turns(clocks, terms, now=1000 + tick * 0.1, wanted=100, tokens=0, overspent=0)
        count += len(turns)
    assert 594 <= count <= 600 + HORIZON_S * 10


def test_tokens_are_set_aside_and_settled():
    # 6,000 tokens a minute are 100 a second; calls of 200 tokens start every two seconds (a little more, for lateness)
    terms = Terms(64, None, 6000.0)
    turns, clocks = take_turns(Clocks(0, 0), terms, now=1000.0, wanted=5, tokens=200, overspent=0)
    assert turns == [1000.0]
    assert clocks.tokens_at == pytest.approx(1002.0, abs=0.02)
    # the call took 500: three seconds more; a call that took less is given back
    later, _ = take_turns(clocks, terms, now=1004.0, wanted=1, tokens=200, overspent=300)
    assert later == [pytest.approx(1005.0, abs=0.04)]
    sooner, _ = take_turns(clocks, terms, now=1000.5, wanted=1, tokens=200, overspent=-150)
    assert sooner == [pytest.approx(1000.5, abs=0.02)]
