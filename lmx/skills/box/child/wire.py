"""What the daemon tells the box's first process and hears from it: one JSON line each way."""

from typing import Any, Literal, TypedDict

# Exit status of a box's process that could not do its work; the reason is on the control socket.
EXIT_FAILED = 97
Ending = Literal["exited", "signalled", "failed", "cpu", "memory", "processes", "cancelled"]


class ChildLimits(TypedDict):
    """Like `lmx.skills.box.plan.Limits`, in whole seconds."""

    cpu_s: float
    memory_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    temp_bytes: int


class Mechanisms(TypedDict):
    """What shall contain the run; it fails where one of them does not work."""

    namespaces: bool
    landlock: bool
    seccomp: bool
    seatbelt: str | None  # the profile


class ChildPlan(TypedDict):
    """One run. All paths are absolute and, but for those of `system`, without symbolic links.

    Attributes:
        argv: The program, or nothing if there is an entrypoint, or if the run is only a trial.
        entrypoint: ``module:function``.
        arguments: Of the entrypoint.
        import_path: Where the entrypoint's modules are looked for, after the standard library.
        folder: Where the run's own code is.
        temp: The temporary directory, where it starts.
        env: All of the environment.
        system: What programs and libraries need, and Python; may be read, and below.
        links: Symbolic links that are made in a file system of the run's own, and their targets.
        reads: What may be read, and below.
        writes: What may be written, and below.
        hidden: What may not be read although it is below `system`.
        network: Whether connections may be opened.
    """

    argv: list[str]
    entrypoint: str | None
    arguments: dict[str, Any]
    import_path: list[str]
    folder: str | None
    temp: str
    env: dict[str, str]
    system: list[str]
    links: dict[str, str]
    reads: list[str]
    writes: list[str]
    hidden: list[str]
    network: bool
    limits: ChildLimits
    mechanisms: Mechanisms


class ChildReport(TypedDict, total=False):
    """How the run ended, as the process that watches it saw it."""

    ending: Ending
    number: int  # exit status or signal
    error: str
    cpu_s: float
    landlock: int
