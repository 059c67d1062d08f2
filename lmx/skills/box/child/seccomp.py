"""The filter of system calls, as a program of classic BPF. Pure: it makes bytes.

It names what is refused and lets the rest pass, so that programs work whose calls nobody foresaw;
what keeps files and network apart are the other mechanisms, and this closes the ways around them.
"""

import errno
import struct
from collections.abc import Iterable

from lmx.skills.box.child import syscalls
from lmx.skills.box.child.syscalls import Numbers

# Audit's names of architectures, and the place of each in `Numbers`.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_HAS_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000
_KILL_PROCESS = 0x80000000
# struct seccomp_data: number, architecture, instruction pointer, arguments of eight bytes.
_NUMBER = 0
_ARCHITECTURE = 4
_FIRST_ARGUMENT = 16  # its low half, on little-endian machines
_SECOND_ARGUMENT = 24

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*, of clone()
_AF_UNIX = 1
_SOCK_KIND_BITS = 0xF  # the others are flags
_SOCK_STREAM = 1
_SOCK_SEQPACKET = 5
_AF_INET = 2
_AF_INET6 = 10


def _instruction(code: int, value: int, *jumps: int) -> bytes:
    if_true, if_false = jumps or (0, 0)
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(number: int) -> bytes:
    return _instruction(_RETURN, _REFUSE | number)


def _always(number: int, error: int) -> list[bytes]:
    return [_instruction(_EQUAL, number, 0, 1), _refuse(error)]


def _by_argument(number: int, tests: list[bytes]) -> list[bytes]:
    """Run `tests` on the first argument of one call; they end it or fall through to be allowed."""
    body = [_instruction(_LOAD, _FIRST_ARGUMENT), *tests, _instruction(_RETURN, _ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _only(values: Iterable[int], error: int) -> list[bytes]:
    tests: list[bytes] = []
    for value in values:
        tests += [_instruction(_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW)]
    return [*tests, _refuse(error)]


def _pair_tests() -> list[bytes]:
    """Pairs that can speak with each other alone: one of datagrams can send anywhere."""
    return [
        _instruction(_EQUAL, _AF_UNIX, 1, 0),
        _refuse(errno.EACCES),
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_AND, _SOCK_KIND_BITS),
        *_only([_SOCK_STREAM, _SOCK_SEQPACKET], errno.EACCES),
    ]


def build_filter(machine: str, *, network: bool, metadata: bool, signals: bool) -> bytes:
    """The whole program.

    Args:
        machine: As ``uname -m`` says; one of `ARCHITECTURES`.
        network: Whether internet sockets may be opened.
        metadata: Whether modes, owners, times and attributes of files may be changed.
        signals: Whether signals may be sent.
    """
    audit, place = ARCHITECTURES[machine]

    def numbers(*tables: dict[str, Numbers]) -> list[int]:
        found = [table[name][place] for table in tables for name in table]
        return [number for number in found if number is not None]

    def one(entry: Numbers) -> int:
        number = entry[place]
        assert number is not None  # noqa: S101 - the tables below are complete
        return number

    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, audit, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32_BIT, 0, 1),
        _refuse(errno.ENOSYS),
    ]
    refused = [syscalls.NEVER]
    refused += [] if metadata else [syscalls.METADATA]
    refused += [] if signals else [syscalls.SIGNALS]
    for number in numbers(*refused):
        program += _always(number, errno.EPERM)
    # Its flags are behind a pointer, where no filter looks; the C library then takes clone().
    program += _always(one(syscalls.CLONE3), errno.ENOSYS)
    namespaces = [_instruction(_HAS_BITS, _NEW_NAMESPACES, 0, 1), _refuse(errno.EPERM)]
    program += _by_argument(one(syscalls.CLONE), namespaces)
    for number in numbers(syscalls.ON_OTHERS):
        program += _by_argument(number, _only([0], errno.EPERM))
    families = [_AF_INET, _AF_INET6] if network else []
    program += _by_argument(one(syscalls.SOCKET), _only(families, errno.EACCES))
    program += _by_argument(one(syscalls.SOCKETPAIR), _pair_tests())
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])
