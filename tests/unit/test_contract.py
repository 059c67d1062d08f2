"""The client contract is whole: its tests exist, its routes do, and rules hold for all of them."""

import ast
import functools
import re
from pathlib import Path
from typing import Any

import pytest

from lmx.schema.openapi import openapi_document
from tests.contract import P0
from tests.contract_more import P1

TESTS = Path(__file__).parent.parent
TABLES = {f"{p} {name}": t for p, all_of in (("P0", P0), ("P1", P1)) for name, t in all_of.items()}
PROMISES = [
    pytest.param(tests.split(), id=f"{table}: {promise}")
    for table, promises in TABLES.items()
    for promise, tests in promises.items()
]
ROUTE = re.compile(r"(GET|POST|DELETE) (/\S*)")
DOCUMENT: dict[str, Any] = openapi_document("1")
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
# Clients repeat these with any method and forget what they said.
REPEATED = {"408", "425", "429", "500", "502", "503", "504"}
# A body that did not come, and a fault of ours, are no outcomes.
NO_OUTCOMES = {"408", "500"}
TEXTS = {
    "/metrics",
    "/admin/metrics",
    "/docs",
    "/admin/logs/sessions/{filename}",
    "/admin/logs/updates/{filename}",
}


@functools.cache
def functions(module: str) -> frozenset[str]:
    """The tests of a module."""
    path = TESTS / f"{module}.py"
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(one.name for one in tree.body if isinstance(one, kinds))


@pytest.mark.parametrize("tests", PROMISES)
def test_every_promise_has_tests(tests: list[str]) -> None:
    """They exist under the names that the table gives."""
    assert tests
    places = [name.split("::") for name in tests]
    assert [] == [(module, name) for module, name in places if name not in functions(module)]
    assert len(tests) == len(set(tests))


def test_promised_routes_are_there() -> None:
    """Each is described, so that the tests of the description hold it to that, too."""
    promised = {
        found.groups()
        for promises in TABLES.values()
        for promise in promises
        if (found := ROUTE.fullmatch(promise))
    }
    known = {(method.upper(), path) for method, path, _ in OPERATIONS}
    assert set() == promised - known
    assert len(promised) > 30


def test_admin_outcomes_are_not_repeated() -> None:
    """No route under /admin announces a status on which clients send the request again."""
    announced = {
        (method, path, status)
        for method, path, operation in OPERATIONS
        for status in operation["responses"]
        if path.startswith("/admin/") and status in REPEATED - NO_OUTCOMES
    }
    assert set() == announced


def test_every_success_is_json() -> None:
    """But for texts that are asked for as such; and no success is without content."""
    for _, path, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            if status.startswith("2") and path not in TEXTS and path != "/mcp":
                kinds = set(answer["content"])
                assert kinds, path
                assert kinds <= {"application/json", "text/event-stream"}, path
