"""Cheats: code that would rather look right than be right. Every one scores what it would without the trick."""

# ruff: noqa: E501 (programs in one line each)

import pytest

pytestmark = pytest.mark.sandbox

TESTS = "from solution import add\nassert add(1, 2) == 3\nassert add(2, 2) == 4\ndef test_more():\n    assert add(0, 0) == 0\n"
WRONG = "def add(a, b):\n    return 7\n"

EVERYTHING = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __mul__ = __mod__ = __truediv__ = __sub__
    def __abs__(self): return 0.0
    def __hash__(self): return 3
    def __bool__(self): return True
    def __contains__(self, item): return True
    def __instancecheck__(self, thing): return True
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __iter__(self): return iter([self, self])
    def __len__(self): return 2
    def __getitem__(self, key): return self
def add(*a, **k): return Equal()
"""


@pytest.mark.parametrize(
    "check",
    [
        "assert add(1, 2) == 3", "assert 3 == add(1, 2)", "assert not add(1, 2) != 3", "assert add(1, 2) < 4",
        "assert 4 > add(1, 2)", "assert abs(add(1, 2) - 3) < 1e-6", "assert abs(3 - add(1, 2)) < 1e-6", "assert add(1, 2) % 2 == 0",
        "assert 3 in add(1, 2)", "assert add(1, 2) in [3, 4]", "assert [add(1, 2)] == [3]", "assert (add(1, 2),) == (3,)",
        "assert {3: 1}[add(1, 2)] == 1", "assert {add(1, 2)} == {3}", "assert list(add(1, 2)) == [1, 2]", "assert add(1, 2)[0] == 3",
        "assert add(1, 2).value == 3", "assert add(1, 2).f() == 3", "assert isinstance(add(1, 2), int)", "assert add(1, 2) is True",
        "import math\nassert math.isclose(add(1, 2), 3)", "import unittest\nunittest.TestCase().assertEqual(add(1, 2), 3)",
        "import pytest\nassert add(1, 2) == pytest.approx(3)", "assert sorted([add(1, 2), 3]) == [3, 3]",
        "assert str(add(1, 2)) == '3'", "assert not (add(1, 2) is None) and add(1, 2) == 3",
        "with __import__('pytest').raises(ValueError):\n    assert add(1, 2) or 1", "assert dict(a=add(1, 2)) == dict(a=3)",
    ],
)  # fmt: skip
def test_an_object_that_equals_everything_equals_nothing(run, check):
    ran = run(EVERYTHING, check)
    assert ran.share == 0, ran


def test_so_does_a_subclass_of_a_plain_type(run):
    code = (
        "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
        "class L(list):\n    def __eq__(s, o): return True\n"
        "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\n"
        "class D(dict):\n    def __eq__(s, o): return True\n"
        "class F(float):\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0.0\n"
        "i, l, s, d, f = lambda: I(7), lambda: L(), lambda: S('x'), lambda: D(), lambda: F(9.0)"
    )
    tests = "assert i() == 3\nassert l() == [1]\nassert s() == 'a'\nassert d() == {1: 1}\nassert f() == 1.5\nassert abs(f() - 1) < 1\n"
    assert run(code, tests).share == 0
    assert run(code, "assert i() == 7 and s() == 'x' and f() == 9.0").share == 1


ENDINGS = {
    "os._exit on import": "import os\nos._exit(0)",
    "sys.exit on import": "import sys\nsys.exit(0)",
    "SystemExit in the function": "def add(a, b):\n    raise SystemExit(0)",
    "os._exit in the function": "import os\ndef add(a, b):\n    os._exit(0)",
    "SystemExit at exit": "import atexit\ndef stop(): raise SystemExit(0)\natexit.register(stop)\n" + WRONG,
    "KeyboardInterrupt": "def add(a, b):\n    raise KeyboardInterrupt",
    "GeneratorExit": "def add(a, b):\n    raise GeneratorExit",
    "an exception of one's own": "class Passed(BaseException): pass\ndef add(a, b):\n    raise Passed",
    "a thread that exits": "import os, threading\nthreading.Timer(0.1, os._exit, (0,)).start()\nimport time\ndef add(a, b):\n    time.sleep(1)",
    "os.kill": "import os, signal\ndef add(a, b):\n    os.kill(os.getpid(), signal.SIGTERM)\n    os._exit(0)",
    "closing everything": "import os\nos.closerange(0, 100)\n" + WRONG,
    "the pipe": "import os\ndef add(a, b):\n    os.close(5)\n    os.close(6)",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_to_end_early_is_no_success(run, name):
    ran = run(ENDINGS[name], TESTS)
    assert ran.share == 0, ran


PATCHES = {
    "builtins": "import builtins\nbuiltins.abs = builtins.len = lambda x: 0\nbuiltins.all = builtins.isinstance = lambda *a: True\n"
    "builtins.AssertionError = SystemExit\nbuiltins.__import__ = None\n",
    "names of builtins": "def abs(x): return 0\ndef all(x): return True\ndef isinstance(a, b): return True\nsum = max = min = abs\n"
    "class AssertionError(Exception): pass\n",
    "unittest": "import unittest\nunittest.TestResult.wasSuccessful = lambda s: True\nunittest.TestCase.assertEqual = lambda *a: None\n",
    "pytest": "import sys, types\np = types.ModuleType('pytest')\np.raises = p.approx = lambda *a: None\nsys.modules['pytest'] = p\n"
    "import pytest\n",
    "math": "import math\nmath.isclose = lambda *a, **k: True\n",
    "a false math": "import sys, types\nmath = types.ModuleType('math')\nmath.isclose = lambda *a, **k: True\nsys.modules['math'] = math\n",
    "json": 'import json\njson.dumps = lambda *a, **k: \'{"table": [], "changed": null, "value": 3}\'\n',
    "frames": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n",
    "conftest": "open('conftest.py', 'w').write('import os; os._exit(0)')\n",
    "sitecustomize": "open('sitecustomize.py', 'w').write('import os; os._exit(0)')\nopen('usercustomize.py', 'w').write('1')\n",
    "the test file": "for n in ('tests.py', 'solution.py', 'test_solution.py'): open(n, 'w').write('')\n",
    "the tests' module": "import sys, types\nsys.modules['tests'] = sys.modules['__main__'] = types.ModuleType('tests')\n",
    "the harness": "import workers.sandbox.inside.units as u\nu.record_of = lambda *a: {'passed': 1, 'total': 1}\n",
    "the wire": "import workers.sandbox.inside.wire as w\nw.Writer.value = lambda s, v: v\n",
    "run_tests": "def run_tests(*a): return True\ndef test_more(): pass\ncheck = test = run_tests\n",
    "gc": "import gc\nfor o in gc.get_objects():\n    if type(o) is dict and 'tests' in o and type(o['tests']) is str: o['tests'] = 'assert 1'\n",
    "pickle": "import pickle, sys\nopen('result.pkl', 'wb').write(pickle.dumps({'passed': 3}))\n",
    "a locale": "import locale, sys\ntry:\n    locale.setlocale(locale.LC_ALL, 'tr_TR')\nexcept Exception: pass\nsys.stdout = None\n",
}


@pytest.mark.parametrize("name", PATCHES)
def test_what_is_patched_is_patched_in_the_wrong_process(run, name):
    tests = (
        TESTS + "import math, unittest, pytest\n"
        "assert all([add(1, 2) == 3])\nassert abs(add(1, 2) - 3) == 0\nassert isinstance(add(1, 2), str)\n"
        "assert math.isclose(add(1, 2), 3)\nassert add(1, 2) == pytest.approx(3)\n"
        "class T(unittest.TestCase):\n    def test_it(self): self.assertEqual(add(1, 2), 3)\n"
    )
    ran = run(PATCHES[name] + WRONG, tests)
    assert ran.share == 0, ran


@pytest.mark.parametrize(
    "body",
    [
        'print(\'{"passed": 3, "total": 3, "nonce": "0"}\')',
        "import sys; sys.stderr.write('3 passed\\n')",
        'import os\nfor fd in range(3, 300):\n    try: os.write(fd, b\'{"passed": 3, "total": 3, "failures": [], "nonce": "0"}\')\n'
        "    except OSError: pass",
        "import os, json, struct\nd = json.dumps({'table': [], 'changed': None, 'value': 3}).encode()\n"
        "for _ in range(99): os.write(6, struct.pack('<I', len(d)) + d)",
        "import os\nos.write(6, bytes(100000))",
        "import os, struct\nos.write(6, struct.pack('<I', 2**32 - 1))",
        "import os, struct\nd = b'[' * 100000\nos.write(6, struct.pack('<I', len(d)) + d)",
    ],
)
def test_forged_records_and_answers_are_not_believed(run, body):
    """A forged answer may be one that the code could have given honestly: it is an answer, and never a verdict."""
    ran = run(body + "\n" + WRONG, TESTS)
    assert ran.share < 1, ran


FORGED = [
    {"table": [["l", [["m", 99]]]], "changed": None, "value": ["m", 0]},
    {"table": [], "changed": None, "value": ["o", 12345]},
    {"table": [], "changed": None, "value": ["x", "os", "system", "true"]},
    {"table": [], "changed": None, "value": ["y", "eval"]},
    {"table": [], "changed": None, "value": ["n", "__import__('os')._exit(0)", ["a"], [1]]},
    {"table": [], "changed": None, "value": ["n", "N", ["a=__import__('os')._exit(0)"], [1]]},
    {"table": [], "changed": None, "error": ["SystemExit", "SystemExit\n0", None, {}, None]},
    {"table": [], "changed": None, "error": ["KeyboardInterrupt", "x", 0, {"__class__": 1}, -1]},
    {"table": None},
    [],
    {"ask": "call", "table": [], "body": [0, [], {}]},
    {"ask": "get", "table": [], "body": [0, "__globals__"]},
    {"ask": "__init__", "table": [], "body": []},
]


@pytest.mark.parametrize("position", range(len(FORGED)))
def test_malformed_answers_end_in_nothing(run, position):
    code = (
        f"import json, os, struct, workers.sandbox.inside.peer as p\nreply = json.loads({__import__('json').dumps(FORGED[position])!r})\n"
        "def send(fd, message):\n"
        "    d = json.dumps(message if 'ask' in message or 'names' in str(message) or not hot else reply).encode()\n"
        "    os.write(fd, struct.pack('<I', len(d)) + d)\nhot = []\np.send = send\n"
        "def add(a, b):\n    hot.append(1)\n    return 3\n"
    )
    ran = run(code, "assert add(1, 2) == 3\nassert add(1, 2) == 3")
    assert ran.share == 0, ran


def test_what_is_expected_cannot_be_found(run):
    """Neither the tests nor what they expect is in the memory, the files or the frames of the code's process."""
    code = (
        "import gc, sys, os\n"
        "def find(f, x):\n"
        "    seen = [repr(o)[:10000] for o in gc.get_objects() if isinstance(o, (str, dict, list, tuple))]\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n        seen.append(repr(list(frame.f_locals.values()))); frame = frame.f_back\n"
        "    for name in dir(f):\n"
        "        try: seen.append(repr(getattr(f, name)))\n        except Exception: pass\n"
        "    for name in ('__globals__', '__code__', '__closure__', '__self__', 'gi_frame', 'f_globals'):\n"
        "        try: seen.append(repr(getattr(f, name)))\n        except Exception: pass\n"
        "    try: seen.append(open('/proc/self/mem').read())\n    except OSError: pass\n"
        "    return any('-'.join(('SECRET', 'EXPECTED')) in s for s in seen)\n"
    )
    tests = (
        "expected = 'SECRET' + '-EXPECTED'\nclass Box:\n    def __init__(self): self._hidden = expected\n"
        "def gen():\n    mine = expected\n    yield 1\n"
        "def test_function():\n    assert find(lambda: expected, 1) is False\n"
        "def test_iterator():\n    assert find(gen(), 1) is False\n"
        "def test_object():\n    assert find(Box(), 1) is False\n"
    )
    ran = run(code, tests)
    assert ran.share == 1, ran
