"""The sandbox profile of macOS, as text. Pure.

The language is that of ``sandbox-exec``: the last rule that matches decides. ``system.sb`` is
Apple's own and lets a program start.
"""

from collections.abc import Iterable, Sequence

_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def make_profile(
    reads: Sequence[str], writes: Sequence[str], hidden: Sequence[str], *, network: bool
) -> str:
    """A profile that allows what is named and denies the rest.

    Args:
        reads: Paths that may be read and run, and below.
        writes: Paths that may be read, run and written, and below.
        hidden: Paths that may not be touched although they are below `reads`.
        network: Whether connections may be opened.
    """
    lines = [
        "(version 1)",
        "(deny default)",
        '(import "system.sb")',
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow process-info* (target same-sandbox))",
        "(allow sysctl-read)",
        "(allow file-read-metadata)",
        f"(allow file-read* process-exec {_subpaths([*reads, *writes])})",
        f"(allow file-write* {_subpaths(writes)})",
        f"(allow file-read* file-write-data {_literals(_DEVICES)})",
    ]
    if network:
        lines += [
            "(allow network-outbound (remote ip))",
            "(allow network-bind network-inbound (local ip))",
            "(allow system-socket)",
            '(allow network-outbound (literal "/private/var/run/mDNSResponder"))',
            '(allow mach-lookup (global-name "com.apple.SystemConfiguration.configd"))',
            '(allow mach-lookup (global-name "com.apple.trustd.agent"))',
        ]
    else:
        lines.append("(deny network*)")
    if hidden:
        lines.append(f"(deny file-read* file-write* {_subpaths(hidden)})")
    return "\n".join(lines) + "\n"


def _subpaths(paths: Iterable[str]) -> str:
    return " ".join(f"(subpath {_quote(path)})" for path in paths)


def _literals(paths: Iterable[str]) -> str:
    return " ".join(f"(literal {_quote(path)})" for path in paths)


def _quote(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
