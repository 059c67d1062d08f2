"""The words of the box: what is to be run, within which limits, and what came of it.

Data alone. A run never raises: whatever a skill does to itself is a `BoxResult`, as is a plan that
cannot be carried out.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from lmx.skills.manifest import Permissions

BoxEnd = Literal[
    "done",
    "raised",
    "crashed",
    "timed_out",
    "out_of_memory",
    "too_many_processes",
    "too_much_output",
    "refused",
]
Positive = Annotated[float, Meta(gt=0)]
Some = Annotated[int, Meta(gt=0)]


class Limits(Struct, frozen=True, kw_only=True):
    """What a run, all its processes together, may use.

    Attributes:
        wall_s: Time from its start to its end.
        cpu_s: CPU time.
        memory_bytes: Memory that is its own: not that of programs and libraries.
        processes: Processes and threads at one time.
        open_files: Open files of one process.
        output_bytes: Each of standard output, standard error and the result.
        file_bytes: Size of one file that it writes.
        temp_bytes: Its temporary directory, where that is in memory (Linux with namespaces).
    """

    wall_s: Positive = 30.0
    cpu_s: Positive = 30.0
    memory_bytes: Some = 512_000_000
    processes: Some = 32
    open_files: Some = 128
    output_bytes: Some = 1_000_000
    file_bytes: Some = 64_000_000
    temp_bytes: Some = 64_000_000


class BoxPlan(Struct, frozen=True, kw_only=True):
    """What to run: a program, or a Python function.

    Attributes:
        argv: Program and arguments; no shell. The program is a path, a path within `folder`, or a
            name on ``PATH``.
        entrypoint: ``module:function``, a dotted module below `folder`. Called with `arguments` by
            name; what it returns must be a JSON value. A coroutine is awaited.
        arguments: Of `entrypoint`.
        folder: Where program or module are; readable. The run starts in its temporary directory.
        stdin: What stands on standard input.
        permissions: What it may touch beyond its temporary directory.
        limits: What it may use.
    """

    argv: tuple[str, ...] = ()
    entrypoint: str | None = None
    arguments: dict[str, Any] = {}
    folder: str | None = None
    stdin: bytes = b""
    permissions: Permissions = Permissions()
    limits: Limits = Limits()


class BoxResult(Struct, frozen=True, kw_only=True):
    """How a run ended. No process of it is left, and no file in its temporary directory.

    Attributes:
        end: ``done``: the program exited, with `status`, or the function returned `value`.
            ``raised``: the function raised, or its value is no JSON. ``crashed``: ended by a
            signal. ``timed_out``: wall or CPU time. ``refused``: it was not started.
        error: One sentence on why it is not ``done`` with status 0; `None` if it is.
        status: Exit status of a program; negative for a signal.
        value: What the function returned.
        stdout: Standard output.
        stderr: Standard error.
        wall_s: From the call of `Box.run` to the end of its processes, in seconds.
        cpu_s: CPU time of all its processes, in seconds.
    """

    end: BoxEnd
    error: str | None = None
    status: int | None = None
    value: Any = None
    stdout: bytes = b""
    stderr: bytes = b""
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it did what it was asked to."""
        return self.end == "done" and not self.status


class BoxCapability(Struct, frozen=True, kw_only=True):
    """What this machine can contain, found by trying.

    Attributes:
        is_contained: Whether a run reaches no file, network or process beyond its permissions.
            Where it is false, a run that means to can leave its limits too.
        namespaces: Runs get a file system, a network and process ids of their own (Linux).
        landlock: Version of Landlock's interface; 0 without it (Linux).
        seccomp: System calls are filtered (Linux).
        seatbelt: A sandbox profile is applied (macOS).
        reason: One sentence: what is used, or why runs are not contained.
    """

    is_contained: bool
    namespaces: bool = False
    landlock: int = 0
    seccomp: bool = False
    seatbelt: bool = False
    reason: str = ""
