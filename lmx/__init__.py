"""LMX: a headless daemon that loads language models on one machine and serves them to a LAN.

This package knows nothing at import time: no engine, no web framework. `lmx.serve` composes
the daemon, `lmx.worker` is the child process that owns one model.
"""

__version__ = "0.1.0"
