"""From a plan to what the child is told: paths resolved and checked, environment, import path.

Looks at files, so it runs in a thread. What it decides is what the mechanisms of the child enforce;
a permission that would hand out the daemon's own secrets is refused here, whatever enforces it.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

import lmx
from lmx.skills.box.child.wire import ChildLimits, ChildPlan, Mechanisms
from lmx.skills.box.plan import BoxCapability, BoxPlan, Limits
from lmx.skills.box.removal import make_directory
from lmx.skills.box.seatbelt import make_profile
from lmx.skills.manifest import OWN_PREFIXES, WRITABLE_SUFFIX

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# What programs and libraries need in order to start, to look up names and to trust certificates.
# Neither /etc as a whole nor /var, /home or /opt.
SYSTEM_READS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
SYSTEM_READS_MACOS = (
    "/usr",
    "/bin",
    "/sbin",
    "/System",
    "/Library/Apple",
    "/Library/Developer/CommandLineTools",
    "/Library/Frameworks",
    "/opt/homebrew",
    "/private/etc/hosts",
    "/private/etc/localtime",
    "/private/etc/resolv.conf",
    "/private/etc/services",
    "/private/etc/ssl",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/private/var/run/resolv.conf",
)
# The kernel's and the devices' files are never granted, nor all files at once.
UNGRANTABLE = ("/dev", "/proc", "/sys")


class Secrets(NamedTuple):
    """What no run may see, without symbolic links.

    Attributes:
        paths: Files and folders.
        exceptions: What may be shown nevertheless, below `paths`.
    """

    paths: Sequence[str]
    exceptions: Sequence[str]


class PlanRefused(Exception):
    """A plan that cannot be carried out; the message says why, in one sentence."""


class Prepared(NamedTuple):
    """A `ChildPlan` as its process reads it, and the temporary directory made for it."""

    line: bytes
    temp: Path


class _Code(NamedTuple):
    """Where the code of Python is."""

    reads: list[str]
    import_path: list[str]


def prepare(
    plan: BoxPlan,
    capability: BoxCapability,
    *,
    secrets: Secrets,
    environment: Mapping[str, str],
    temp_parent: Path | None,
) -> Prepared:
    """Resolve and check a plan, and make its temporary directory.

    Args:
        plan: What is to be run.
        capability: What contains it.
        secrets: What is never shown.
        environment: The daemon's own, from which permitted variables are taken.
        temp_parent: Where the temporary directory is made; `None` for the system's place.

    Raises:
        PlanRefused: It cannot be carried out, and nothing was made.
    """
    folder = None if plan.folder is None else _resolve(plan.folder, "the skill's folder", secrets)
    code = _find_code()
    reads, writes = _resolve_permissions(plan, secrets)
    system = [*_system_reads(), *code.reads]
    reads += [folder] if folder else []
    variables = _choose_environment(plan, environment)
    argv = _find_program(plan, folder, variables["PATH"])
    if argv and _is_hidden(os.path.realpath(argv[0]), secrets):
        raise PlanRefused(f"the program {argv[0]} is LMX's own")
    reads += [os.path.realpath(program) for program in argv[:1]]
    shown = [path for path in secrets.paths if os.path.lexists(path) and _is_below(path, system)]
    if shown and not (capability.namespaces or capability.seatbelt):
        raise PlanRefused(f"nothing on this machine keeps {shown[0]} from skills")
    temp = _make_temporary(temp_parent)
    variables |= {"HOME": str(temp), "TMPDIR": str(temp)}
    child = ChildPlan(
        argv=argv,
        entrypoint=plan.entrypoint,
        arguments=plan.arguments,
        import_path=code.import_path,
        folder=folder,
        temp=str(temp),
        env=variables,
        system=_distinct(system),
        links=_links(argv),
        reads=_distinct(reads),
        writes=writes,
        hidden=shown,
        network=plan.permissions.network,
        limits=_limits(plan.limits),
        mechanisms=_mechanisms(capability),
    )
    if capability.seatbelt:
        _add_profile(child)
    try:
        line = msgspec.json.encode(child) + b"\n"
    except (TypeError, ValueError) as error:  # such as a path that is no text
        temp.rmdir()
        raise PlanRefused(f"the plan is no JSON: {error}") from error
    return Prepared(line, temp)


def _add_profile(child: ChildPlan) -> None:
    child["mechanisms"]["seatbelt"] = make_profile(
        [*child["system"], *child["reads"]],
        [*child["writes"], child["temp"]],
        child["hidden"],
        network=child["network"],
    )


def _resolve_permissions(plan: BoxPlan, secrets: Secrets) -> tuple[list[str], list[str]]:
    reads: list[str] = []
    writes: list[str] = []
    for text in plan.permissions.files:
        path = _resolve(text.removesuffix(WRITABLE_SUFFIX), "files", secrets)
        (writes if text.endswith(WRITABLE_SUFFIX) else reads).append(path)
    return reads, writes


def _resolve(text: str, what: str, secrets: Secrets) -> str:
    expanded = os.path.expanduser(text)
    if not os.path.isabs(expanded) or "\0" in expanded:
        raise PlanRefused(f"{what}: {text!r} is not an absolute path")
    path = os.path.realpath(expanded)
    if not os.path.exists(path):
        raise PlanRefused(f"{what}: {text} does not exist")
    if path == "/" or _is_below(path, UNGRANTABLE):
        raise PlanRefused(f"{what}: {text} is not for skills")
    if any(_holds(path, secret) for secret in secrets.paths) or _is_hidden(path, secrets):
        raise PlanRefused(f"{what}: {text} would show what is LMX's own")
    return path


def _is_hidden(path: str, secrets: Secrets) -> bool:
    is_secret = any(_holds(secret, path) for secret in secrets.paths)
    return is_secret and not any(_holds(shown, path) for shown in secrets.exceptions)


def _holds(folder: str, path: str) -> bool:
    """Whether a path is a folder or file or lies below it, by whatever names.

    Names alone do not tell: a file may have two, and on macOS upper case is lower case.
    """
    for one in (path, *map(str, Path(path).parents)):
        if one == folder:
            return True
        with suppress(OSError):
            if os.path.samefile(one, folder):
                return True
    return False


def _is_below(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of these or below one; all without symbolic links."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _find_program(plan: BoxPlan, folder: str | None, search_path: str) -> list[str]:
    if not plan.argv:
        return []
    name, *arguments = plan.argv
    if any("\0" in text for text in plan.argv):
        raise PlanRefused("a program or an argument with a zero byte")
    for candidate in _candidates(name, folder, search_path):
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return [candidate, *arguments]  # not resolved: programs ask what they were called as
    raise PlanRefused(f"the program {name!r} was not found")


def _candidates(name: str, folder: str | None, search_path: str) -> list[str]:
    if os.path.isabs(name):
        return [name]
    inside = []
    if folder is not None:
        path = os.path.normpath(os.path.join(folder, name))
        inside = [path] if _is_below(path, [folder]) else []
    if "/" in name:
        return inside
    return [*inside, *(os.path.join(part, name) for part in search_path.split(":") if part)]


def _choose_environment(plan: BoxPlan, environment: Mapping[str, str]) -> dict[str, str]:
    chosen = {"PATH": DEFAULT_PATH, "LANG": environment.get("LANG", "C.UTF-8")}
    for name in plan.permissions.env:
        if name.upper().startswith(OWN_PREFIXES):
            raise PlanRefused(f"env: {name} is LMX's own")
        if name in environment:
            chosen[name] = environment[name]
    return chosen


def _find_code() -> _Code:
    """Python and the packages that the daemon itself has; of LMX's folder only LMX."""
    package = Path(lmx.__file__).parent
    parent = str(package.parent)
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    import_path: list[str] = []
    for path in sys.path:
        if not os.path.isabs(path) or not os.path.isdir(path):
            continue
        if _is_below(path, folders):
            import_path.append(path)
        elif path == parent:
            import_path.append(path)
            folders.append(str(package))
    found = [*folders, *(os.path.realpath(folder) for folder in folders)]
    return _Code([path for path in _distinct(found) if path != "/"], import_path)


def _system_reads() -> list[str]:
    paths = SYSTEM_READS_MACOS if sys.platform == "darwin" else SYSTEM_READS
    # The links among them are made anew in the run's own file system.
    return [path for path in paths if os.path.exists(path) and not _is_linked_folder(path)]


def _links(argv: Sequence[str]) -> dict[str, str]:
    """Folders of the root that are links, on many systems into /usr; the program, if it is one."""
    linked = [path for path in SYSTEM_READS if _is_linked_folder(path) and path.count("/") == 1]
    links = {path: os.readlink(path) for path in linked}
    programs = {program: os.path.realpath(program) for program in argv[:1]}
    return links | {program: real for program, real in programs.items() if program != real}


def _is_linked_folder(path: str) -> bool:
    return os.path.islink(path) and os.path.isdir(path)


def _distinct(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _make_temporary(parent: Path | None) -> Path:
    try:
        return make_directory(parent)
    except OSError as error:
        raise PlanRefused(f"no temporary directory: {error.strerror}") from error


def _limits(limits: Limits) -> ChildLimits:
    return ChildLimits(
        cpu_s=limits.cpu_s,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        open_files=limits.open_files,
        file_bytes=limits.file_bytes,
        temp_bytes=limits.temp_bytes,
    )


def _mechanisms(capability: BoxCapability) -> Mechanisms:
    return Mechanisms(
        namespaces=capability.namespaces,
        landlock=capability.landlock > 0,
        seccomp=capability.seccomp,
        seatbelt=None,
    )
