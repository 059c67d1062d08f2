"""Measures the budgets of `docs/style.md` over the source tree and fails when one is exceeded.

It knows Python's syntax tree and nothing about LMX beyond the tables below. Complexity and nesting
are ruff's to measure; this is the rest. Prints `path:line: rule: measured > limit` per violation.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 50
PARAMETERS = 6
POSITIONAL_PARAMETERS = 3
PUBLIC_METHODS = 15
INSTANCE_ATTRIBUTES = 12

# The package keeps every budget; tests and scripts keep the lengths and the ban on mocks.
PACKAGE = "lmx"
TREES = (PACKAGE, "tests", "scripts")

# The only places that may catch everything, once each, and what stands there.
BLIND_EXCEPTS: Mapping[str, str] = {
    "lmx/web/barrier.py": "the HTTP error handler",
    "lmx/worker/loop.py": "the worker's load step",
    "lmx/daemon/restarts.py": "the restart wrapper",
}
# Where an import may wait for a call: a worker pays for one engine, `lmx --help` for no daemon, a
# daemon for no SDK of MCP until somebody speaks it.
LATE_IMPORTS = ("lmx/engines/__init__.py", "lmx/cli/", "lmx/cli.py", "lmx/skills/mcp/__init__.py")
# Engine libraries change shape between versions; asking an object what it has is their interface.
PROBED_ATTRIBUTES = ("lmx/engines/",)

# Plain records: their annotated fields are data, not the state of an object.
RECORD_BASES = frozenset({"NamedTuple", "Struct", "TypedDict"})

LAYOUT_TOKENS = frozenset(
    {
        tokenize.COMMENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
        tokenize.INDENT,
        tokenize.NEWLINE,
        tokenize.NL,
    }
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Violation:
    """One budget exceeded at one place."""

    path: str
    line: int
    rule: str
    measured: int
    limit: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.measured} > {self.limit}"


@dataclass(frozen=True)
class Source:
    """One file, parsed.

    Args:
        path: Relative to the repository, with forward slashes; the tables above match on it.
        text: What the file holds.
    """

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The module's syntax tree."""
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def code_lines(self) -> frozenset[int]:
        """Numbers of the lines that hold code: neither blank nor comment alone."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return frozenset(
            line
            for token in tokens
            if token.type not in LAYOUT_TOKENS
            for line in range(token.start[0], token.end[0] + 1)
        )

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        """Every class, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    def function_lines(self, function: Function) -> int:
        """Lines of code from `def` to the end, without the docstring."""
        last = function.end_lineno or function.lineno
        lines = set(range(function.lineno, last + 1)) & self.code_lines
        if ast.get_docstring(function, clean=False) is not None:
            docstring = function.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        return len(lines)


def _last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, `a.b.c[...]` and `a.b.c(...)`; empty for anything else."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _base_names(node: ast.ClassDef) -> set[str]:
    return {_last_name(base) for base in node.bases}


def _methods(node: ast.ClassDef) -> list[Function]:
    return [child for child in node.body if isinstance(child, Function)]


def _is_static(method: Function) -> bool:
    return any(_last_name(decorator) == "staticmethod" for decorator in method.decorator_list)


def record_classes(sources: Sequence[Source]) -> frozenset[str]:
    """Names of all classes that derive from a record, through any of the given files."""
    bases = {node.name: _base_names(node) for source in sources for node in source.classes}
    records = set(RECORD_BASES)
    while True:
        found = {name for name, names in bases.items() if names & records} - records
        if not found:
            return frozenset(records)
        records |= found


def check_lengths(source: Source) -> Iterator[Violation]:
    """Yield what is too long: the file, and each function."""
    file_lines = len(source.text.splitlines())
    if file_lines > FILE_LINES:
        yield Violation(source.path, 1, "file-length", file_lines, FILE_LINES)
    for function in source.functions:
        lines = source.function_lines(function)
        if lines > FUNCTION_LINES:
            yield Violation(source.path, function.lineno, "function-length", lines, FUNCTION_LINES)


def check_parameters(source: Source) -> Iterator[Violation]:
    """Yield functions with too many parameters, or too many that may be given by position.

    `self` and `cls` do not count, nor do `*args` and `**kwargs`. A Protocol's methods are exempt.
    """
    bound = {m for node in source.classes for m in _methods(node) if not _is_static(m)}
    exempt = {m for node in source.classes if "Protocol" in _base_names(node) for m in node.body}
    for function in source.functions:
        if function in exempt:
            continue
        arguments = function.args
        positional = len(arguments.posonlyargs) + len(arguments.args) - (function in bound)
        total = positional + len(arguments.kwonlyargs)
        if total > PARAMETERS:
            yield Violation(source.path, function.lineno, "parameters", total, PARAMETERS)
        if positional > POSITIONAL_PARAMETERS:
            yield Violation(
                source.path,
                function.lineno,
                "positional-parameters",
                positional,
                POSITIONAL_PARAMETERS,
            )


def _assigned_attributes(method: Function) -> set[str]:
    """Attributes of the first parameter that the method binds, in any form of assignment."""
    parameters = [*method.args.posonlyargs, *method.args.args]
    if not parameters or _is_static(method):
        return set()
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == parameters[0].arg
    }


def _annotated_attributes(node: ast.ClassDef) -> set[str]:
    return {
        child.target.id
        for child in node.body
        if isinstance(child, ast.AnnAssign)
        and isinstance(child.target, ast.Name)
        and _last_name(child.annotation) != "ClassVar"
    }


def check_classes(source: Source, *, records: frozenset[str]) -> Iterator[Violation]:
    """Yield classes with too many public methods or too much state.

    Args:
        source: The file.
        records: Classes whose annotated fields are data, from `record_classes`.
    """
    for node in source.classes:
        public = {m.name for m in _methods(node) if not m.name.startswith("_")}
        if len(public) > PUBLIC_METHODS:
            yield Violation(source.path, node.lineno, "methods", len(public), PUBLIC_METHODS)
        attributes = set().union(*(_assigned_attributes(m) for m in _methods(node)))
        if node.name not in records:
            attributes |= _annotated_attributes(node)
        if len(attributes) > INSTANCE_ATTRIBUTES:
            yield Violation(
                source.path, node.lineno, "attributes", len(attributes), INSTANCE_ATTRIBUTES
            )


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def check_module_state(source: Source) -> Iterator[Violation]:
    """Yield `global` statements and module variables bound a second time."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield Violation(source.path, node.lineno, "global", len(node.names), 0)
    seen: set[str] = set()
    for statement in source.tree.body:
        names = set(_bound_names(statement))
        again = len(names & seen) + isinstance(statement, ast.AugAssign)
        if again:
            yield Violation(source.path, statement.lineno, "module-variable-rebound", again, 0)
        seen |= names


def check_late_imports(source: Source) -> Iterator[Violation]:
    """Yield imports inside functions."""
    if source.path.startswith(LATE_IMPORTS):
        return
    late = {
        node.lineno
        for function in source.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    for line in late:
        yield Violation(source.path, line, "import-in-function", 1, 0)


def _is_everything(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_everything(element) for element in node.elts)
    return node is None or _last_name(node) in {"Exception", "BaseException"}


def check_blind_excepts(source: Source) -> Iterator[Violation]:
    """Yield handlers and `suppress` calls that catch everything, past what the table allows."""
    lines = [
        node.lineno
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.ExceptHandler) and _is_everything(node.type))
        or (
            isinstance(node, ast.Call)
            and _last_name(node.func) == "suppress"
            and any(_is_everything(argument) for argument in node.args)
        )
    ]
    limit = 1 if source.path in BLIND_EXCEPTS else 0
    for count, line in enumerate(sorted(lines), start=1):
        if count > limit:
            yield Violation(source.path, line, "blind-except", count, limit)


def check_probes(source: Source) -> Iterator[Violation]:
    """Yield `getattr` and `hasattr` with a constant name, which a type would answer."""
    if source.path.startswith(PROBED_ATTRIBUTES):
        return
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "hasattr"}
            and any(isinstance(argument, ast.Constant) for argument in node.args[1:2])
        ):
            yield Violation(source.path, node.lineno, "probed-attribute", 1, 0)


def _is_mock(node: ast.stmt | ast.expr | ast.arg) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name in {"mock", "unittest.mock"} for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        from_unittest = node.module == "unittest" and any(a.name == "mock" for a in node.names)
        return from_unittest or node.module in {"mock", "unittest.mock"}
    if isinstance(node, ast.arg):
        return node.arg == "mocker"
    # Nothing but pytest's monkeypatch has a method of this name.
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "setattr"
    )


def check_mocks(source: Source) -> Iterator[Violation]:
    """Yield uses of `unittest.mock`, `mocker` and `monkeypatch.setattr`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.stmt | ast.expr | ast.arg) and _is_mock(node):
            yield Violation(source.path, node.lineno, "mock", 1, 0)


def check_source(source: Source, *, records: frozenset[str] = RECORD_BASES) -> list[Violation]:
    """Return what one file violates, in order; its path decides which budgets apply."""
    found = [*check_lengths(source), *check_mocks(source)]
    if source.path.startswith(f"{PACKAGE}/"):
        found += check_parameters(source)
        found += check_classes(source, records=records)
        for check in (check_module_state, check_late_imports, check_blind_excepts, check_probes):
            found += check(source)
    return sorted(found)


def read_sources(root: Path) -> list[Source]:
    """Every Python file of the trees that are measured."""
    return [
        Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for tree in TREES
        for path in sorted((root / tree).rglob("*.py"))
    ]


def statistics(sources: Sequence[Source]) -> Iterator[str]:
    """Yield one line per tree: largest file, longest function, 95th percentile of functions."""
    for tree in TREES:
        members = [source for source in sources if source.path.startswith(f"{tree}/")]
        files = sorted((len(source.text.splitlines()), source.path) for source in members)
        functions = sorted(
            (source.function_lines(function), f"{source.path}:{function.lineno} {function.name}")
            for source in members
            for function in source.functions
        )
        if not files or not functions:
            yield f"{tree}: nothing to measure"
            continue
        p95_lines, _ = functions[int(0.95 * (len(functions) - 1))]
        yield (
            f"{tree}: {len(files)} files, {sum(lines for lines, _ in files)} lines, largest "
            f"{files[-1][0]} ({files[-1][1]}); {len(functions)} functions, p95 {p95_lines}, "
            f"longest {functions[-1][0]} ({functions[-1][1]})"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the tree; 0 when every budget is kept, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Measure the budgets of docs/style.md.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--statistics", action="store_true", help="also print sizes per tree")
    options = parser.parse_args(arguments)
    sources = read_sources(options.root)
    records = record_classes(sources)
    violations = [v for source in sources for v in check_source(source, records=records)]
    for violation in violations:
        print(violation)
    if options.statistics:
        for line in statistics(sources):
            print(line)
    if violations:
        print(f"{len(violations)} over budget", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
