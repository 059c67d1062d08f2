"""What fails beneath models: the process that holds one, its pipe, and settings."""

from lmx.errors.base import LmxError


class WorkerError(LmxError):
    """The process that holds the model failed. Not raised itself."""

    code = "worker-broken"


class WorkerBroken(WorkerError):
    """The worker process died; the message says how."""


class WorkerClosed(WorkerError):
    """The worker was unloaded on purpose."""

    code = "worker-closed"


class WorkerStalled(WorkerError):
    """The worker lives but delivers nothing."""

    code = "worker-stalled"


class FrameError(LmxError):
    """Bytes on the worker pipe that are no frame; the connection ends."""

    code = "bad-frame"


class AlreadyRunning(LmxError):
    """Another daemon serves this ``LMX_HOME``. The daemon exits with status 75 (EX_TEMPFAIL)."""

    code = "already-running"


class ConfigError(LmxError):
    """Settings that cannot be used. The command line exits with status 78 (EX_CONFIG)."""

    code = "bad-config"
