"""The daemon's process stays small: importing it loads no engine, and does so quickly."""

import subprocess
import sys
import time

FORBIDDEN = ("mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "llama_cpp", "gguf")
PROGRAM = f"""
import sys
import lmx.serve
print([name for name in {FORBIDDEN!r} if name in sys.modules])
"""


def test_importing_the_daemon_is_quick_and_loads_no_engine() -> None:
    """A fresh interpreter imports `lmx.serve` within 3 s and has no engine package afterwards."""
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=30
    )
    assert ("[]\n", "") == (done.stdout, done.stderr)
    assert time.monotonic() - started_s < 3


def test_importing_the_worker_loads_no_trio_and_no_engine() -> None:
    """A fresh interpreter imports the worker's loop without Trio, HTTP or an engine package."""
    program = PROGRAM.replace("lmx.serve", "lmx.worker.loop")
    program = program.replace("('mlx',", "('trio', 'quart', 'hypercorn', 'mlx',")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert ("[]\n", "") == (done.stdout, done.stderr)


def test_the_disk_tier_of_the_prefix_cache_knows_bytes_only() -> None:
    """A fresh interpreter imports it without an engine, numpy or Trio."""
    program = PROGRAM.replace("lmx.serve", "lmx.engines.prefix.disk.cache")
    program = program.replace("('mlx',", "('trio', 'quart', 'hypercorn', 'mlx',")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert ("[]\n", "") == (done.stdout, done.stderr)
