"""Groups for tests of the arithmetic: the golden case of grape.md §5, and groups that hypothesis draws."""

from hypothesis import strategies as st

from service.domain.scoring import CriterionWeight, GateRule, ScoredCell

S = [[1, 0.5, 0.2], [0, 0.9, 0.4], [1, 0.7, 0.9], [0, 0.3, 0.5]]
C = [[1, 0.9, 0.2], [1, 0.8, 0.4], [1, 0.7, 0.3], [1, 0.8, 0.3]]
W = (2, 1, 1)
KEYS = ("a", "b", "c")
CAP = GateRule(0.5, 0.25)
REQUIRED = GateRule(0.5, 0.0)


def criteria(weights=W, **extra):
    return [CriterionWeight(key=k, weight=w, **extra) for k, w in zip(KEYS, weights, strict=False)]


def rows(scores=S, confidences=None):
    """Cells by completion; a null score is a failed cell."""
    stated = confidences or [[1.0] * len(row) for row in scores]
    return [
        {k: ScoredCell(s, c) for k, s, c in zip(KEYS, s_row, c_row, strict=False) if s is not None}
        for s_row, c_row in zip(scores, stated, strict=True)
    ]


def rewards(group):
    return [c.reward for c in group.completions]


def unscaled(group):
    return [c.unscaled_advantage for c in group.completions]


def advantages(group):
    return [c.advantage for c in group.completions]


def numbers_of(group):
    return [(c.reward, c.unscaled_advantage, c.scale_factor, c.advantage) for c in group.completions]


numbers = st.floats(0, 1, allow_subnormal=False)
positive = st.floats(0.01, 1, allow_subnormal=False)
weights_of = st.floats(0.01, 100)


@st.composite
def groups(draw, confidences=positive, min_criteria=1, scores=numbers):
    """Weights, scores and confidences of 2 to 6 completions on up to three criteria, every cell ok."""
    j = draw(st.integers(min_criteria, 3))
    n = draw(st.integers(2, 6))
    weights = draw(st.lists(weights_of, min_size=j, max_size=j))
    found = draw(st.lists(st.lists(scores, min_size=j, max_size=j), min_size=n, max_size=n))
    stated = draw(st.lists(st.lists(confidences, min_size=j, max_size=j), min_size=n, max_size=n))
    return weights, found, stated
