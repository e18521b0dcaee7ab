"""What judges replied, packed: everything comes back, and long texts share what room there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.replies import fair_share, pack, unpack


def vote(*texts, number=1):
    attempts = [{"status": "ok", "http_status": 200, "finish_reason": "stop", "reason": None, "text": t} for t in texts]
    return {
        "vote": number,
        "step": None,
        "reply_format": "text",
        "attempts": attempts,
        "readings": {"a": {"status": "ok", "score": 1.0}},
    }


def test_what_is_packed_comes_back():
    (one, two) = unpack(pack([vote("é\n{}", None), vote("x", number=2)], 1000))
    assert [attempt.text for attempt in one.attempts] == ["é\n{}", None]
    assert [(attempt.cut, attempt.http_status) for attempt in two.attempts] == [(False, 200)]
    assert (two.vote, two.readings["a"].score, two.readings["a"].confidence) == (2, 1.0, None)


def test_what_no_answer_can_hold_is_shown_as_everywhere():
    (one,) = unpack(pack([vote("a\x00b\ud800c")], 1000))
    assert one.attempts[0].text == "a\ufffdb\ufffdc"


def test_long_replies_lose_their_ends_and_short_ones_nothing():
    (found,) = unpack(pack([vote("short", "é" * 600, "y" * 900)], 405))
    assert [attempt.cut for attempt in found.attempts] == [False, True, True]
    assert [attempt.text for attempt in found.attempts] == ["short", "é" * 100, "y" * 200]  # (405 − 5)/2 bytes each
    many = [vote("z" * 10_000, number=n) for n in range(1, 33)]
    assert sum(len(a.text) for v in unpack(pack(many, 64 << 10)) for a in v.attempts) <= 64 << 10


@pytest.mark.parametrize(
    ("sizes", "most", "share"),
    [
        ([], 10, 0),
        ([3, 4], 7, 4),
        ([3, 4], 6, 3),
        ([10, 10], 10, 5),
        ([1, 5, 100], 16, 10),
        ([7], 3, 3),
        ([0, 0, 9], 4, 4),
    ],
)
def test_shares_by_hand(sizes, most, share):
    assert fair_share(sizes, most) == share


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 200))
def test_a_share_is_the_largest_that_fits(sizes, most):
    share = fair_share(sizes, most)
    assert sum(min(size, share) for size in sizes) <= most
    if sum(sizes) > most:
        assert sum(min(size, share + 1) for size in sizes) > most
