"""The processes of a run on macOS, read through a stand-in for the system's library."""

import os
from ctypes import Array, c_int32, c_uint32, c_uint64, sizeof

from lmx.skills.box.child.processes import MacProcesses, Use

BY_GROUP = 2
BY_PARENT = 6
FOOTPRINT = 9
START = 10


class FakeLibrary:
    """A table of processes behind the two functions that are used.

    Attributes:
        table: Parent, group, footprint in bytes and start time by process id.
    """

    def __init__(self) -> None:
        self.table: dict[int, tuple[int, int, int, int]] = {}

    def proc_listpids(self, kind: int, value: c_uint32, buffer: Array[c_int32], size: int) -> int:
        place = {BY_PARENT: 0, BY_GROUP: 1}[kind]
        found = [pid for pid, entry in self.table.items() if entry[place] == value.value]
        assert size == sizeof(buffer)
        buffer[: len(found)] = found
        return 4 * len(found)

    def proc_pid_rusage(self, pid: int, flavor: int, words: Array[c_uint64]) -> int:
        # A UUID of 16 bytes and 18 numbers.
        assert (2, 160) == (flavor, sizeof(words))
        if pid not in self.table:
            return -1
        words[FOOTPRINT], words[START] = self.table[pid][2:]
        return 0


def test_group_and_descendants_are_found() -> None:
    """The group, children of children outside it, and nobody else; memory is added up."""
    library = FakeLibrary()
    library.table = {
        100: (os.getpid(), 100, 5, 1),
        101: (100, 100, 6, 2),
        102: (101, 102, 7, 3),
        103: (1, 100, 8, 4),
        200: (1, 200, 1000, 5),
    }
    processes = MacProcesses(library)
    found = processes.find(100)
    assert [100, 101, 102, 103] == sorted(found)
    assert Use(4, 26, 0.0) == processes.measure(found)


def test_one_that_was_seen_is_not_lost() -> None:
    """A process that leaves is known by its start, so a number given again is not mistaken."""
    library = FakeLibrary()
    library.table = {100: (os.getpid(), 100, 5, 1), 101: (100, 100, 6, 2), 102: (100, 100, 6, 3)}
    processes = MacProcesses(library)
    assert [100, 101, 102] == sorted(processes.find(100))
    library.table[101] = (1, 101, 6, 2)  # it made a session of its own
    library.table[102] = (1, 102, 6, 9)  # another program got that number
    assert [100, 101] == sorted(processes.find(100))
    library.table = {101: (1, 101, 6, 2)}
    assert [101] == processes.find(100)
    library.table = {}
    assert [] == processes.find(100)
