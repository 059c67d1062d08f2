"""What machine this is: read once at start, for documents that people and clients look at.

Knows files and system calls, no document. Nothing here fails: what cannot be found out is said in
the general terms that Python knows. The root of the file system and the kernel's answers are
arguments, so that tests lay out machines of their own.
"""

import os
import platform
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from lmx.daemon.meter_macos import LibSystem

# A line of /proc/cpuinfo or os-release: name, separator, value.
CPU_NAME = re.compile(r"^(?:model name|cpu model|Model|Hardware)\s*:\s*(\S.*)$", re.MULTILINE)
SYSTEM_NAME = re.compile(r'^PRETTY_NAME="?([^"\n]+)"?$', re.MULTILINE)
MEMORY_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)
APPLE_CHIP = re.compile(r"Apple M(\d+)")
# Apple's name of a GPU generation by that of its M chips. Source: Metal Feature Set Tables, "GPUs
# by family". Chips of unknown generations have at least what the last one has.
APPLE_FAMILIES = {1: "apple7", 2: "apple8", 3: "apple9", 4: "apple9", 5: "apple10"}


class Hardware(Struct, frozen=True, kw_only=True):
    """One machine.

    Attributes:
        hostname: Its name as it knows it.
        chip_name: Its processor.
        memory_bytes: All its memory, whatever limits there are.
        cpu_cores: Processors that the system shows.
        metal_available: Whether Apple's GPU interface is there.
        architecture: Of the processor, as the system spells it.
        gpu_family: Apple's name of the GPU generation, or `None` for other GPUs.
        os_version: Name and version of the operating system.
    """

    hostname: str
    chip_name: str
    memory_bytes: int
    cpu_cores: int
    metal_available: bool
    architecture: str
    gpu_family: str | None
    os_version: str


class Sysctl(Protocol):
    """The kernel's answers on macOS. Both members raise `OSError` when there is none."""

    def read_sysctl(self, name: str) -> int:
        """A whole number by its name."""
        ...

    def read_sysctl_text(self, name: str) -> str:
        """A text by its name."""
        ...


def read_hardware() -> Hardware:
    """This machine. Reads files, so it belongs in a thread."""
    return mac_hardware(LibSystem()) if sys.platform == "darwin" else linux_hardware()


def linux_hardware(root: Path = Path("/")) -> Hardware:
    """A Linux machine.

    Args:
        root: Where ``proc`` and ``etc`` are found.
    """
    chip = CPU_NAME.search(_read(root / "proc/cpuinfo"))
    memory = MEMORY_TOTAL.search(_read(root / "proc/meminfo"))
    system = SYSTEM_NAME.search(_read(root / "etc/os-release"))
    return Hardware(
        hostname=socket.gethostname(),
        chip_name=chip[1].strip() if chip else platform.machine(),
        memory_bytes=1024 * int(memory[1]) if memory else _known_memory_bytes(),
        cpu_cores=os.cpu_count() or 1,
        metal_available=False,
        architecture=platform.machine(),
        gpu_family=None,
        os_version=system[1] if system else f"Linux {platform.release()}",
    )


def mac_hardware(system: Sysctl) -> Hardware:
    """A Mac.

    Args:
        system: The kernel's answers.
    """
    chip, version = platform.machine(), platform.release()
    memory_bytes, cores = _known_memory_bytes(), os.cpu_count() or 1
    with suppress(OSError):
        chip = system.read_sysctl_text("machdep.cpu.brand_string")
    with suppress(OSError):
        version = system.read_sysctl_text("kern.osproductversion")
    with suppress(OSError):
        memory_bytes = system.read_sysctl("hw.memsize")
    with suppress(OSError):
        cores = system.read_sysctl("hw.logicalcpu")
    generation = APPLE_CHIP.search(chip)
    newest = max(APPLE_FAMILIES)
    return Hardware(
        hostname=socket.gethostname(),
        chip_name=chip,
        memory_bytes=memory_bytes,
        cpu_cores=cores,
        metal_available=generation is not None,
        architecture=platform.machine(),
        gpu_family=APPLE_FAMILIES[min(int(generation[1]), newest)] if generation else None,
        os_version=f"macOS {version}",
    )


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("utf-8", "replace")
    return ""


def _known_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
