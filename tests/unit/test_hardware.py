"""What machine this is: Linux from a tree of files, a Mac from canned answers, this one itself."""

import ctypes
import errno
import os
import platform
import socket
from pathlib import Path
from typing import Any

import pytest

from lmx.daemon.hardware import Hardware, linux_hardware, mac_hardware, read_hardware
from lmx.daemon.meter_macos import LibSystem

PC = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
"""
PI = "processor\t: 0\nCPU part\t: 0xd0b\n\nRevision\t: c04170\nModel\t\t: Raspberry Pi 5 Model B\n"


class CannedSysctl:
    """A kernel with fixed answers; a name it does not know is an `OSError`."""

    def __init__(self, **answers: int | str) -> None:
        self._answers = answers

    def read_sysctl(self, name: str) -> int:
        return int(self._answer(name))

    def read_sysctl_text(self, name: str) -> str:
        return str(self._answer(name))

    def _answer(self, name: str) -> int | str:
        if name not in self._answers:
            raise OSError(errno.ENOENT, name)
        return self._answers[name]


def lay_out(root: Path, **files: str) -> Path:
    """A file system with these files; two underscores are a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("os_release", "os-release")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "chip"),
    [
        (PC, "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"),
        (PI, "Raspberry Pi 5 Model B"),
        ("processor\t: 0\n", platform.machine()),
    ],
)
def test_linux(tmp_path: Path, cpuinfo: str, chip: str) -> None:
    """The chip as the kernel names it, memory in bytes, the distribution's name."""
    root = lay_out(
        tmp_path,
        proc__cpuinfo=cpuinfo,
        proc__meminfo="MemTotal:       65536000 kB\nMemFree: 1 kB\n",
        etc__os_release='NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04 LTS"\n',
    )
    expected = Hardware(
        hostname=socket.gethostname(),
        chip_name=chip,
        memory_bytes=65_536_000 * 1024,
        cpu_cores=os.cpu_count() or 1,
        metal_available=False,
        architecture=platform.machine(),
        gpu_family=None,
        os_version="Ubuntu 24.04 LTS",
    )
    assert expected == linux_hardware(root)


def test_linux_without_files(tmp_path: Path) -> None:
    """What cannot be read is said in general terms."""
    hardware = linux_hardware(tmp_path)
    assert (platform.machine(), f"Linux {platform.release()}") == (
        hardware.chip_name,
        hardware.os_version,
    )
    assert hardware.memory_bytes > 0


@pytest.mark.parametrize(
    ("chip", "family", "has_metal"),
    [
        ("Apple M1", "apple7", True),
        ("Apple M2 Max", "apple8", True),
        ("Apple M3 Ultra", "apple9", True),
        ("Apple M4 Pro", "apple9", True),
        ("Apple M17", "apple10", True),
        ("Intel(R) Core(TM) i7-8700B", None, False),
    ],
)
def test_mac(chip: str, family: str | None, *, has_metal: bool) -> None:
    """The GPU's generation follows from the chip's; later ones have at least what the last has."""
    answers: dict[str, Any] = {
        "machdep.cpu.brand_string": chip,
        "kern.osproductversion": "15.2",
        "hw.memsize": 192 * 2**30,
        "hw.logicalcpu": 32,
    }
    hardware = mac_hardware(CannedSysctl(**answers))
    assert (chip, family, has_metal) == (
        hardware.chip_name,
        hardware.gpu_family,
        hardware.metal_available,
    )
    assert (192 * 2**30, 32, "macOS 15.2") == (
        hardware.memory_bytes,
        hardware.cpu_cores,
        hardware.os_version,
    )


def test_mac_without_answers() -> None:
    """A kernel that tells nothing does not stop the start."""
    hardware = mac_hardware(CannedSysctl())
    assert (platform.machine(), os.cpu_count()) == (hardware.chip_name, hardware.cpu_cores)


def test_this_machine() -> None:
    """The real one has a name, a chip and memory."""
    hardware = read_hardware()
    assert hardware.hostname
    assert hardware.chip_name
    assert hardware.memory_bytes > 2**28
    assert hardware.os_version


def test_texts_of_the_kernel() -> None:
    """`sysctlbyname` fills a buffer up to a NUL byte, or fails."""
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_void_p,
        ctypes.c_size_t,
    )

    @kind
    def sysctlbyname(name: bytes, value: int, size: Any, _new: Any, _length: int) -> int:
        if name != b"machdep.cpu.brand_string":
            ctypes.set_errno(errno.ENOENT)
            return -1
        text = b"Apple M3 Ultra\0"
        assert size[0] >= len(text)
        ctypes.memmove(value, text, len(text))
        size[0] = len(text)
        return 0

    class Library:
        """A C library of one function."""

        def __init__(self) -> None:
            self.sysctlbyname = sysctlbyname
            self.proc_pid_rusage = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: -1)
            self.host_statistics64 = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: -1)
            self.mach_host_self = ctypes.CFUNCTYPE(ctypes.c_uint32)(lambda: 7)

    system = LibSystem(Library())
    assert "Apple M3 Ultra" == system.read_sysctl_text("machdep.cpu.brand_string")
    with pytest.raises(OSError, match="sysctl nothing"):
        system.read_sysctl_text("nothing")
