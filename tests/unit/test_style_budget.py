"""The budgets fire where they are exceeded, stay silent where they are kept, and print plainly."""

from pathlib import Path
from textwrap import dedent

import pytest

from scripts.style_budget import (
    BLIND_EXCEPTS,
    FILE_LINES,
    FUNCTION_LINES,
    Source,
    check_source,
    main,
    record_classes,
    statistics,
)

MODULE = "lmx/daemon/anything.py"


def rules(text: str, *, path: str = MODULE) -> list[str]:
    """What fires, as `rule measured>limit@line`."""
    source = Source(path, text.lstrip("\n"))
    found = check_source(source, records=record_classes([source]))
    return [f"{v.rule} {v.measured}>{v.limit}@{v.line}" for v in found]


def function_of(lines: int) -> str:
    """A function of exactly that many lines of code."""
    return "def f():\n" + "    g()\n" * (lines - 1)


def class_with_methods(count: int) -> str:
    """A class of that many public methods."""
    return "class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(count))


def test_file_at_the_limit_is_kept() -> None:
    """The last permitted line is permitted, comments and blanks included."""
    assert [] == rules("#\n" * FILE_LINES)


def test_file_over_the_limit_fires_on_its_first_line() -> None:
    """Physical lines count, whatever they hold."""
    assert ["file-length 401>400@1"] == rules("#\n" * (FILE_LINES + 1))


def test_function_at_the_limit_is_kept() -> None:
    """Fifty lines of code, the `def` included, are permitted."""
    assert [] == rules(function_of(FUNCTION_LINES))


def test_function_over_the_limit_fires_on_its_definition() -> None:
    """One line more is a violation, reported where the function begins."""
    assert ["function-length 51>50@2"] == rules("x = 1\n" + function_of(FUNCTION_LINES + 1))


def test_docstring_blank_and_comment_lines_are_not_code() -> None:
    """What explains a function does not make it long."""
    head, *body = function_of(FUNCTION_LINES).splitlines()
    text = "\n".join([head, '    """One.', "", '    Two."""', "", "    # three", *body])
    assert [] == rules(text)


def test_lines_inside_a_string_are_code() -> None:
    """A long literal makes a function long; its blank lines count as well."""
    text = 'def f():\n    return """' + "\n" * FUNCTION_LINES + '"""\n'
    assert ["function-length 52>50@1"] == rules(text)


@pytest.mark.parametrize("path", ["tests/unit/test_x.py", "scripts/x.py"])
def test_tests_and_scripts_keep_lengths_only(path: str) -> None:
    """Outside the package a helper may take many arguments, but not run on."""
    text = function_of(FUNCTION_LINES + 1).replace("f()", "f(a, b, c, d, e, f, g)", 1)
    assert ["function-length 51>50@1"] == rules(text, path=path)


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("def f(a, b, c, *, d, e, f): ...", []),
        ("def f(a, b, c, *, d, e, f, g): ...", ["parameters 7>6@1"]),
        ("def f(a, b, c, d): ...", ["positional-parameters 4>3@1"]),
        ("def f(a, b, /, c, d): ...", ["positional-parameters 4>3@1"]),
        ("def f(a, b, c, *rest, **more): ...", []),
        ("async def f(a, b, c, d): ...", ["positional-parameters 4>3@1"]),
        ("class C:\n    def f(self, a, b, c): ...", []),
        ("class C:\n    def f(self, a, b, c, d): ...", ["positional-parameters 4>3@2"]),
        (
            "class C:\n    @staticmethod\n    def f(a, b, c, d): ...",
            ["positional-parameters 4>3@3"],
        ),
        ("class C:\n    @classmethod\n    def f(cls, a, b, c): ...", []),
        ("class C(Protocol[T]):\n    def f(self, a, b, c, d, e, f, g): ...", []),
        ("class C:\n    def f(*arguments): ...", []),
    ],
)
def test_parameters(signature: str, expected: list[str]) -> None:
    """Six at most, three of them by position; the instance and a Protocol's methods are free."""
    assert expected == rules(signature)


def test_public_methods_count_names() -> None:
    """Fifteen are permitted; private ones and a property's setter add nothing."""
    uncounted = "    def _p(self): ...\n    @m0.setter\n    def m0(self, value): ...\n"
    assert [] == rules(class_with_methods(15) + uncounted)
    assert ["methods 16>15@1"] == rules(class_with_methods(16))


def test_attributes_count_every_form_of_assignment() -> None:
    """Plain, tuple, annotated, augmented, `with` and `for` targets, in any method."""
    text = dedent("""
        class C:
            x0: int
            kinds: ClassVar[int]

            def __init__(self):
                self.x1, self.x2 = 1, 2
                self.x3: int = 3
                self.x4 += 1
                other.y = 1

            def run(self):
                with open_it() as self.x5:
                    for self.x6 in range(3):
                        self.x0.inner = 1
                self.x7 = self.x8 = self.x9 = self.x10 = self.x11 = 0
    """)
    assert [] == rules(text)
    assert ["attributes 13>12@1"] == rules(text + "        self.x12 = self.x1 = 0\n")


def test_fields_of_records_are_data() -> None:
    """A Struct, however indirectly, may be as wide as its frame; a plain class may not."""
    fields = "".join(f"    field_{n}: int\n" for n in range(13))
    assert [] == rules(f"class A(msgspec.Struct, frozen=True):\n{fields}")
    assert [] == rules(f"class Base(Struct): ...\nclass A(Base):\n{fields}")
    assert [] == rules(f"class A(NamedTuple):\n{fields}")
    assert ["attributes 13>12@2"] == rules(f"@dataclass\nclass A:\n{fields}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = x\n", []),
        ("x = 1\nx = 2\n", ["module-variable-rebound 1>0@2"]),
        ("x: int = 1\nx += 2\n", ["module-variable-rebound 1>0@2"]),
        ("a, b = 1, 2\nb = 3\n", ["module-variable-rebound 1>0@2"]),
        ("x: int\nx = 1\n", []),
        ("def f():\n    x = 1\n    x = 2\n", []),
        ("def f():\n    global a, b\n    a = b = 1\n", ["global 2>0@2"]),
    ],
)
def test_module_state_is_bound_once(text: str, expected: list[str]) -> None:
    """A module's names keep the value they were given."""
    assert expected == rules(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (MODULE, ["import-in-function 1>0@3"]),
        ("lmx/engines/base.py", ["import-in-function 1>0@3"]),
        ("lmx/engines/__init__.py", []),
        ("lmx/cli/models.py", []),
    ],
)
def test_late_imports_belong_to_two_places(path: str, expected: list[str]) -> None:
    """A nested import is reported once, and only where waiting has no reason."""
    text = "def f():\n    def g():\n        from a import b\n"
    assert expected == rules(text, path=path)


@pytest.mark.parametrize(
    "handler",
    [
        "except:",
        "except Exception:",
        "except BaseException as e:",
        "except (A, Exception):",
        "except* builtins.Exception:",
    ],
)
def test_blind_handlers_fire(handler: str) -> None:
    """Every spelling of catching everything is seen."""
    assert ["blind-except 1>0@3"] == rules(f"try:\n    f()\n{handler}\n    g()\n")


def test_precise_handlers_are_kept() -> None:
    """A handler that names its errors is what is asked for; so is a precise `suppress`."""
    assert [] == rules("try:\n    f()\nexcept (OSError, ValueError):\n    g()\n")
    assert [] == rules("with suppress(OSError):\n    f()\n")


def test_suppressing_everything_is_a_blind_handler() -> None:
    """The context manager is the same thing in other words."""
    assert ["blind-except 1>0@1"] == rules("with contextlib.suppress(Exception):\n    f()\n")


def test_three_places_may_catch_everything_once() -> None:
    """Each named file has room for one such handler, and a second one fires."""
    assert 3 == len(BLIND_EXCEPTS)
    once = "try:\n    f()\nexcept Exception:\n    g()\n"
    for path in BLIND_EXCEPTS:
        assert [] == rules(once, path=path)
        assert ["blind-except 2>1@7"] == rules(once * 2, path=path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("getattr(x, 'name', None)", ["probed-attribute 1>0@1"]),
        ("hasattr(x, 'name')", ["probed-attribute 1>0@1"]),
        ("getattr(x, name)", []),
        ("x.getattr('a', 'b')", []),
    ],
)
def test_probes_with_a_constant_fire_outside_engines(text: str, expected: list[str]) -> None:
    """A name known while writing is a job for a type; engines may ask their libraries."""
    assert expected == rules(text)
    assert [] == rules(text, path="lmx/engines/mlx/batch.py")


@pytest.mark.parametrize("path", [MODULE, "tests/unit/test_x.py", "scripts/x.py"])
@pytest.mark.parametrize(
    "text",
    [
        "import unittest.mock",
        "from unittest import mock",
        "from unittest.mock import Mock",
        "def test_x(mocker): ...",
        "monkeypatch.setattr(a, 'b', c)",
    ],
)
def test_mocks_fire_everywhere(text: str, path: str) -> None:
    """Nothing is replaced behind its owner's back, in tests least of all."""
    assert ["mock 1>0@1"] == rules(text, path=path)


def test_other_monkeypatching_is_kept() -> None:
    """The environment and the working directory belong to the test."""
    assert [] == rules("import unittest\nmonkeypatch.setenv('A', 'b')\nsetattr(a, 'b', c)\n")


def write_tree(root: Path, text: str) -> None:
    """A repository with one module."""
    (root / "lmx").mkdir()
    (root / "lmx" / "module.py").write_text(text, encoding="utf-8")


def test_main_prints_violations_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, in the form an editor can follow, and exit status 1."""
    write_tree(tmp_path, "x = 1\nx = 2\n")
    assert 1 == main(["--root", str(tmp_path)])
    assert "lmx/module.py:2: module-variable-rebound: 1 > 0\n" == capsys.readouterr().out


def test_main_is_silent_about_a_tree_within_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing to say and exit status 0."""
    write_tree(tmp_path, "x = 1\n")
    assert 0 == main(["--root", str(tmp_path)])
    assert "" == capsys.readouterr().out


def test_statistics_name_the_extremes() -> None:
    """Largest file, longest function and the 95th percentile, one line per tree."""
    small = Source("lmx/small.py", function_of(3) * 19)
    long = Source("lmx/long.py", function_of(40))
    package, tests, scripts = statistics([small, long])
    expected = (
        "lmx: 2 files, 97 lines, largest 57 (lmx/small.py); 20 functions, p95 3, "
        "longest 40 (lmx/long.py:1 f)"
    )
    assert expected == package
    assert ("tests: nothing to measure", "scripts: nothing to measure") == (tests, scripts)
