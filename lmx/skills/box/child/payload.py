"""Becoming the program of a run, or calling its function and handing back what it returns."""

import importlib
import json
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

from lmx.skills.box.child.wire import ChildPlan

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def run_program(plan: ChildPlan) -> None:
    """Become the program; returns only by raising.

    Raises:
        OSError: It cannot be run.
    """
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    program = plan["argv"][0]
    os.execve(program, plan["argv"], plan["env"])  # noqa: S606 - a shell would read the arguments


def call_function(plan: ChildPlan, result: int) -> None:
    """Call the entrypoint and write what it returns; what it raises is written by a hook.

    Raises:
        BaseException: Whatever the function raises, after which this process has to end.
    """
    os.environ.clear()
    os.environ.update(plan["env"])
    sys.dont_write_bytecode = True
    sys.excepthook = _make_hook(result)
    sys.argv = [plan["entrypoint"] or ""]
    sys.path[:] = [path for path in sys.path if path not in plan["import_path"]]
    sys.path[:0] = [plan["folder"]] if plan["folder"] else []
    sys.path += plan["import_path"]
    module, _, name = (plan["entrypoint"] or "").partition(":")
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    value: Any = function(**plan["arguments"])  # type: ignore[operator]
    if isinstance(value, types.CoroutineType):
        value = importlib.import_module("asyncio").run(value)
    text = json.dumps({"value": value}, ensure_ascii=False, allow_nan=False)
    _write(result, text.encode())
    _flush()


def _make_hook(
    result: int,
) -> Callable[[type[BaseException], BaseException, types.TracebackType | None], None]:
    def report(
        kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
    ) -> None:
        answer = {"error": f"{kind.__name__}: {error}", "memory": issubclass(kind, MemoryError)}
        _write(result, json.dumps(answer).encode())
        sys.__excepthook__(kind, error, trace)
        _flush()

    return report


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
