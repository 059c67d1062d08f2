"""What a model lacks: a moment at which it can answer, or something to be brought up with."""

from lmx.errors.base import LmxError


class CapacityError(LmxError):
    """Right request, wrong moment. Not raised itself."""

    code = "overloaded"


class QueueFull(CapacityError):
    """As many requests wait as may wait."""


class NoModelLoaded(CapacityError):
    """Nothing is loaded and nothing is loading."""

    code = "no-model-loaded"


class ModelLoading(CapacityError):
    """The model is on its way but was not ready within the wait."""

    code = "model-loading"


class NoFreeSlot(CapacityError):
    """An engine has no room for one more sequence; the scheduler asks before adding."""

    code = "no-free-slot"


class OutOfMemory(CapacityError):
    """Memory ran out: while a request was running, or so that its model had to leave before."""

    code = "oom-unloaded"


class Draining(CapacityError):
    """The daemon is stopping and takes no new work."""

    code = "draining"


class LoadError(LmxError):
    """A model cannot be brought up. Not raised itself."""

    code = "load-failed"


class CorruptModel(LoadError):
    """Files are damaged, incomplete or unreadable."""

    code = "corrupt-model"


class UnsupportedModel(LoadError):
    """Architecture, tokenizer or format that no engine knows."""

    code = "model_unsupported"


class DoesNotFit(LoadError):
    """Memory would not suffice; the message holds the arithmetic."""

    code = "insufficient_memory"


class ModelQuarantined(LoadError):
    """It failed too often in a row; only an explicit load tries again."""

    code = "model_unstable"


class LoadCrashed(LoadError):
    """The process that was loading it died, as who asked for the load is told."""

    code = "loader_crashed"


class LoadCancelled(LoadError):
    """It was unloaded on purpose before it was ready, as who asked for the load is told."""

    code = "load_cancelled"


class HubUnreachable(LoadError):
    """A hub does not answer, or with nothing that helps; trying again resumes a download."""

    code = "hub_unreachable"


class ChecksumMismatch(LoadError):
    """What was downloaded is not what was announced; nothing of it is kept."""

    code = "checksum_mismatch"


class StorageFull(LoadError):
    """The disk has no room; what a download has brought so far is kept."""

    code = "storage-full"


class JobFailed(LoadError):
    """The system refused what a job process needs, such as writing to a folder."""

    code = "job-failed"


class JobCrashed(JobFailed):
    """A job process died; the message says how."""

    code = "job-crashed"


class ImportFailed(LoadError):
    """Fetching or converting a model did not succeed; trying again resumes it."""

    code = "import-failed"
