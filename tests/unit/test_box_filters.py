"""The box's filters as data: the program for system calls, run by a small machine, and profiles."""

import errno
import struct

import pytest

from lmx.skills.box.child.seccomp import ARCHITECTURES, build_filter
from lmx.skills.box.seatbelt import make_profile

ALLOWED = "allowed"
KILLED = "killed"
CALLS = {
    "x86_64": {"socket": 41, "socketpair": 53, "clone": 56, "clone3": 435, "read": 0},
    "aarch64": {"socket": 198, "socketpair": 199, "clone": 220, "clone3": 435, "read": 63},
}
MORE_CALLS = {
    "x86_64": {
        "mount": 165,
        "ptrace": 101,
        "chmod": 90,
        "kill": 62,
        "prlimit64": 302,
        "openat": 257,
    },
    "aarch64": {
        "mount": 40,
        "ptrace": 117,
        "chmod": 53,
        "kill": 129,
        "prlimit64": 261,
        "openat": 56,
    },
}


def run_filter(program: bytes, audit: int, number: int, *arguments: int) -> str:
    """What the kernel would do with one call, in a word."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, audit, 0, *given)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return _describe(value)
        else:
            tests = {0x15: accumulator == value, 0x35: accumulator >= value}
            holds = tests.get(operation, bool(accumulator & value))
            position += if_true if holds else if_false


def _describe(value: int) -> str:
    if value == 0x7FFF0000:
        return ALLOWED
    if value == 0x80000000:
        return KILLED
    return errno.errorcode[value & 0xFFFF]


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    """An architecture."""
    return str(request.param)


@pytest.mark.parametrize(
    ("call", "arguments", "strict", "open_"),
    [
        ("read", (0,), ALLOWED, ALLOWED),
        ("openat", (0,), ALLOWED, ALLOWED),
        ("mount", (0,), "EPERM", "EPERM"),
        ("ptrace", (16, 1), "EPERM", "EPERM"),
        ("chmod", (0,), "EPERM", ALLOWED),
        ("kill", (1, 9), "EPERM", ALLOWED),
        ("prlimit64", (0,), ALLOWED, ALLOWED),
        ("prlimit64", (1,), "EPERM", "EPERM"),
        ("clone", (0x1200011,), ALLOWED, ALLOWED),
        ("clone", (0x10000011,), "EPERM", "EPERM"),
        ("clone", (0x00020000,), "EPERM", "EPERM"),
        ("clone3", (0,), "ENOSYS", "ENOSYS"),
        ("socket", (1, 1), "EACCES", "EACCES"),
        ("socket", (2, 1), "EACCES", ALLOWED),
        ("socket", (10, 2), "EACCES", ALLOWED),
        ("socket", (16, 3), "EACCES", "EACCES"),
        ("socket", (40, 1), "EACCES", "EACCES"),
        ("socketpair", (1, 0x80001), ALLOWED, ALLOWED),
        ("socketpair", (1, 2), "EACCES", "EACCES"),
        ("socketpair", (2, 1), "EACCES", "EACCES"),
    ],
)
def test_calls_are_judged(
    machine: str, call: str, arguments: tuple[int, ...], strict: str, open_: str
) -> None:
    """Each call, by its arguments, where nothing is granted and where all is."""
    audit, _ = ARCHITECTURES[machine]
    number = (CALLS[machine] | MORE_CALLS[machine])[call]
    nothing = build_filter(machine, network=False, metadata=False, signals=False)
    everything = build_filter(machine, network=True, metadata=True, signals=True)
    assert strict == run_filter(nothing, audit, number, *arguments)
    assert open_ == run_filter(everything, audit, number, *arguments)


def test_other_ways_into_the_kernel_are_closed(machine: str) -> None:
    """Calls of another architecture end the process; those of x32 do not exist."""
    audit, _ = ARCHITECTURES[machine]
    program = build_filter(machine, network=True, metadata=True, signals=True)
    assert KILLED == run_filter(program, 0x40000003, 1)
    assert "ENOSYS" == run_filter(program, audit, 0x40000000 + 41)
    assert len(program) // 8 < 4096


def test_a_profile_names_what_is_allowed() -> None:
    """Reading, writing and hiding stand in it, quoted; without permission there is no network."""
    profile = make_profile(["/usr", '/a "b"'], ["/work/x"], ["/usr/key"], network=False)
    lines = profile.splitlines()
    assert ["(version 1)", "(deny default)"] == lines[:2]
    read = '(subpath "/usr") (subpath "/a \\"b\\"") (subpath "/work/x")'
    assert f"(allow file-read* process-exec {read})" in lines
    assert '(allow file-write* (subpath "/work/x"))' in lines
    assert "(deny network*)" in lines
    assert '(deny file-read* file-write* (subpath "/usr/key"))' == lines[-1]
    assert profile.count("(") == profile.count(")")


def test_a_profile_with_network() -> None:
    """Internet addresses and the resolver, and no other socket."""
    profile = make_profile(["/usr"], [], [], network=True)
    assert "(allow network-outbound (remote ip))" in profile
    assert "(deny network*)" not in profile
    assert "(allow network*" not in profile
