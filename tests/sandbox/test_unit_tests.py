"""What authors can write as tests, and how completions' code may look: functions, classes, callbacks, exceptions, containers."""

# ruff: noqa: E501 (programs in one line each)

import pytest

from workers.sandbox.run import Limits, SandboxFault

pytestmark = pytest.mark.sandbox

CODE = """
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from datetime import date
from fractions import Fraction

Point = namedtuple("Point", "x y")
LIMIT = 5

class Full(ValueError):
    def __init__(self, message, size):
        super().__init__(message)
        self.size = size

class Stack:
    def __init__(self): self.items = []
    def push(self, x):
        if len(self.items) == LIMIT: raise Full("full", LIMIT)
        self.items.append(x)
        return self
    def __len__(self): return len(self.items)
    def __contains__(self, x): return x in self.items
    def __getitem__(self, i): return self.items[i]
    def __eq__(self, other): return self.items == other.items
    def __add__(self, other):
        made = Stack()
        made.items = self.items + other.items
        return made
    def __enter__(self): return self
    def __exit__(self, *about): self.items.clear()

@dataclass
class Pair:
    a: int
    b: int

def same(x): return x
def count_up(n):
    for i in range(n): yield i
def forever():
    n = 0
    while True:
        yield n
        n += 1
def reverse(a): a.reverse()
def grow(m):
    m[0][0] = 9
    m.append([5])
    return m
def fill(d, s): d["a"] = [1]; s.add(2)
def apply(f, *args): return f(*args)
def safely(f):
    try: return f()
    except KeyError as error: return "no " + str(error)
def depth(node): return 0 if node is None else 1 + max(depth(node.left), depth(node.right))
def longest(key, items): return max(items, key=key)
def total(items): return sum(items)
def cached(f):
    known = {}
    def g(x):
        if x not in known: known[x] = f(x)
        return known[x]
    return g
def circle():
    a = [1]
    a.append(a)
    return a
def boom(): raise Full("too much", 7)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
"""

GOOD = {
    "asserts": "assert same(3) == 3\nassert LIMIT == 5",
    "functions": "def test_a():\n    assert same('x') == 'x'\ndef test_b():\n    assert not same(None)",
    "import": "from solution import same as mine\nimport solution\nassert mine(1) == solution.same(1) == 1",
    "star import": "from solution import *\nassert same(1) == 1",
    "code's own imports": "assert math.isclose(same(0.1) + 0.2, 0.3)\nassert same(Decimal('1.5')) == Decimal('1.5')",
    "a loop": "for n, wanted in [(1, 1), (2, 2)]:\n    assert same(n) == wanted",
    "check": "def check(candidate):\n    assert candidate(1) == 1\n\ncheck(same)",
    "generators": "assert list(count_up(3)) == [0, 1, 2]\nassert sum(count_up(4)) == 6\nassert next(forever()) == 0\n"
    "from itertools import islice\nassert list(islice(forever(), 3)) == [0, 1, 2]\nassert total(x for x in [1, 2]) == 3",
    "in place": "def test():\n    a = [1, 2]\n    reverse(a)\n    assert a == [2, 1]\n    m = [[1], [2]]\n    row = m[0]\n"
    "    assert grow(m) == [[9], [2], [5]]\n    assert m == [[9], [2], [5]] and m[0] is row\n"
    "    d, s = {}, {1}\n    fill(d, s)\n    assert d == {'a': [1]} and s == {1, 2}",
    "circles": "c = circle()\nassert c[1] is c and same(c)[1][1][0] == 1",
    "callbacks": "assert apply(lambda a, b: a * b, 2, 3) == 6\nassert apply(len, [1, 2]) == 2\nassert longest(len, ['a', 'bb']) == 'bb'\n"
    "calls = []\nsquare = cached(lambda x: calls.append(x) or x * x)\nassert square(3) == square(3) == 9 and calls == [3]",
    "exceptions of callbacks": "assert safely(lambda: {}['k']) == \"no 'k'\"\nclass Mine(Exception): pass\nraised = Mine('m')\n"
    "def fail(): raise raised\ntry:\n    apply(fail)\nexcept Mine as error:\n    assert error is raised\nelse:\n    assert False",
    "objects of the tests": "class Node:\n    def __init__(self, left=None, right=None): self.left, self.right = left, right\n"
    "    def __len__(self): return 7\nassert depth(Node(Node(), Node(Node()))) == 3\nassert apply(len, Node()) == 7\n"
    "node = Node()\nassert same(node) is node",
    "classes": "def test():\n    s = Stack().push(3)\n    assert len(s) == 1 and 3 in s and 4 not in s and s[0] == 3 and s.items == [3]\n"
    "    assert s == Stack().push(3) and s != Stack() and (s + s).items == [3, 3]\n    assert isinstance(s, Stack)\n"
    "    with Stack().push(1) as t:\n        assert len(t) == 1\n    assert len(t) == 0\n    p = Pair(1, 2)\n    p.b = 5\n"
    "    assert (p.a, p.b) == (1, 5) and repr(p) == 'Pair(a=1, b=5)' and p == Pair(1, 5)",
    "exceptions": "import pytest\ndef test_own():\n    with pytest.raises(Full, match='much') as e:\n        boom()\n    assert e.value.size == 7\n"
    "def test_base():\n    with pytest.raises(ValueError):\n        boom()\n"
    "def test_builtin():\n    try:\n        same()\n    except TypeError as e:\n        assert 'missing' in str(e)\n    else:\n        assert False",
    "parametrize": "import pytest\n@pytest.mark.parametrize('a, b', [(1, 1), (2, 2)])\ndef test(a, b):\n    assert same(a) == b",
    "approx": "import pytest\nassert same(0.1 + 0.2) == pytest.approx(0.3)\nassert same([0.1, 1]) == pytest.approx([0.1, 1])\n"
    "assert same(1.0) != pytest.approx(1.1)",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.x = 1\n    def test_it(self):\n"
    "        self.assertEqual(same(self.x), 1)\n        with self.assertRaises(ValueError):\n            boom()",
    "classes of tests": "class TestSame:\n    def test_a(self):\n        assert same(1) == 1",
    "plain values": "from collections import *\nimport decimal, fractions, datetime, uuid\n"
    "for v in [None, True, False, 0, -1, 2**70, -2**70, 1.5, float('inf'), '', 'é\\ud800\\0', b'\\xff', bytearray(b'a'), (), (1, [2]), [],\n"
    "    {1, 2}, frozenset({1}), {}, {'a': {1: (2,)}}, {(1, 2): 3}, range(3), slice(1, None), 1j, Ellipsis, int, ValueError,\n"
    "    deque([1], 3), Counter('aab'), OrderedDict(a=1), decimal.Decimal('1.10'), fractions.Fraction(1, 3),\n"
    "    datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4), datetime.timedelta(1, 2, 3), uuid.UUID(int=5)]:\n"
    "    assert same(v) == v and type(same(v)) is type(v), v\nassert same(float('nan')) != same(float('nan'))\nassert same(deque([1], 3)).maxlen == 3",
    "named tuples": "p = same(Point(1, 2))\nassert p == (1, 2) and p.x == 1 and isinstance(p, tuple)",
    "a list of lists": "rows = [[i] * 100 for i in range(100)]\nassert same(rows) == rows",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_code_passes(run, name):
    ran = run(CODE, GOOD[name], memory_mb=256)
    assert ran.share == 1, ran


def test_the_score_is_the_share_that_passes(run):
    tests = (
        "assert same(1) == 1\nassert same(1) == 2\ndef test_a():\n    assert same(3) == 3\ndef test_b():\n    boom()"
    )
    ran = run(CODE, tests)
    assert ran.share == 0.5
    assert "2 of 4 passed" in ran.reason
    assert "test_b: Full: too much" in ran.reason


def test_each_case_of_a_parametrized_test_counts(run):
    tests = "import pytest\n@pytest.mark.parametrize('a', [1, 2, 3, 4])\ndef test(a):\n    assert same(a) != 4"
    assert run(CODE, tests).share == 0.75


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("import numpy", "ModuleNotFoundError"), ("I cannot do that.", "SyntaxError"),
        ("", "NameError"), ("def g(): pass", "NameError"), ("f = 3", "TypeError"), ("def f(): return 2\n", "AssertionError"),
        ("def f(): return f()", "RecursionError"), ("def f(): return '\\ud800' * 3", "AssertionError"), ("\0", "failed"),
        ("raise ImportError('x')", "ImportError"),
    ],
)  # fmt: skip
def test_what_the_code_does_wrong_is_a_zero_with_a_reason(run, code, said):
    ran = run(code, "assert f() == 1")
    assert ran.share == 0
    assert said in ran.reason


def test_a_name_that_the_code_lacks_is_its_fault(run):
    ran = run("x = 1", "from solution import missing\nassert missing() == 1\nassert solution_is_here or True")
    assert ran.share == 0
    assert "missing" in ran.reason


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("assert f( == 1", "do not compile"), ("x = 1", "nothing to run"), ("import numpy\nassert numpy", "standard library"),
        ("async def test_a(): pass", "async"), ("def test_a(tmp_path): assert 1", "fixtures"),
        ("import pytest\n@pytest.fixture\ndef a(): pass\nassert 1", "pytest.fixture is not offered"),
        ("import os\nassert os._exit(3)", "ended itself with exit code 3"),
    ],
)  # fmt: skip
def test_what_the_tests_do_wrong_is_a_fault(sandbox, tests, said):
    with pytest.raises(SandboxFault, match=said):
        sandbox.run_tests("def f(): return 1", tests, Limits(128, 5))


def test_main_blocks_do_not_run(run):
    code = "def f(): return 1\nif __name__ == '__main__':\n    import sys\n    sys.exit(input())"
    assert run(code, "assert f() == 1").share == 1


def test_large_values_cross(run):
    assert run("def f(n): return list(range(n))", "assert f(200000) == list(range(200000))", memory_mb=512).share == 1
    ran = run("def f(): return 'x' * (40 << 20)", "assert f()", memory_mb=512)
    assert ran.share == 0
    assert "bytes" in ran.reason


# --- an author's own grader ---

SAMPLE = {"output_text": '{"a": 1}', "output_json": {"a": 1}}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return 0.25", 0.25), ("return True", 1.0), ("return 1", 1.0), ("return sample['output_json']['a'] / 2", 0.5),
        ("return float(item['reference'] in sample['output_text'])", 1.0), ("import re\n    return len(re.findall('a', 'aa')) / 2", 1.0),
        ("print('noise' * 10**6)\n    return 0.5", 0.5),
    ],
)  # fmt: skip
def test_a_grader_gives_a_number(sandbox, body, value):
    gave = sandbox.run_grader(f"def grade(sample, item):\n    {body}", SAMPLE, {"reference": "a"}, Limits(128, 5))
    assert gave == value


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-0.1", "1.0001", "None", "'1'", "[1]", "10**400"])
def test_what_is_no_score_is_told(sandbox, value):
    gave = sandbox.run_grader(f"def grade(sample, item):\n    return {value}", SAMPLE, {}, Limits(128, 5))
    assert isinstance(gave, str)
    assert gave.startswith("grade() gave")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def grade(sample, item):\n    return 1 / 0", "ZeroDivisionError"), ("def grade(:", "SyntaxError"), ("x = 1", "no function grade"),
        ("def grade(sample, item):\n    while True: pass", "did not end within 1"), ("import os\nos._exit(0)", "ended itself"),
        ("def grade(sample, item):\n    raise SystemExit", "SystemExit"), ("import numpy", "numpy"), ("def grade(a): return 1", "TypeError"),
        ("def grade(sample, item):\n    return len(bytearray(1 << 34))", "MemoryError"),
    ],
)  # fmt: skip
def test_a_grader_that_fails_is_a_fault(sandbox, source, said):
    with pytest.raises(SandboxFault, match=said):
        sandbox.run_grader(source, SAMPLE, {}, Limits(128, 1))
