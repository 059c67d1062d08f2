"""The meter of this machine, and what it says models may take together."""

import os
import sys

from lmx.config import MemorySettings
from lmx.daemon.guardian import budget_bytes
from lmx.daemon.meter import LinuxMeter, Meter
from lmx.daemon.meter_macos import MacMeter


def make_meter() -> Meter:
    """The meter for this operating system."""
    return MacMeter() if sys.platform == "darwin" else LinuxMeter()


def find_budget(settings: MemorySettings, meter: Meter) -> int:
    """Bytes that models may reserve together. Reads files."""
    try:
        return budget_bytes(settings, meter.read(()))
    except OSError:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return int(total * settings.critical_percent / 100)
