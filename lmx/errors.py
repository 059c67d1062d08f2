"""Every error LMX raises on purpose, sorted by whose action caused it.

    LmxError
    ├── RequestError            the client can fix it by sending something else
    │   ├── InvalidRequest          malformed, wrong type, out of range; `param` names the field
    │   ├── UnsupportedFeature      a documented field this version cannot honour
    │   ├── ContextTooLong          prompt does not fit the model's context
    │   ├── BodyTooLarge            request body over the limit
    │   ├── BodyTimeout             request body did not arrive in time
    │   ├── PoisonRequest           this very request has ended workers before
    │   ├── ModelInUse              what was asked for cannot be done to a loaded model
    │   ├── NotDeletable            a model's files are not LMX's to delete
    │   ├── RequestCancelled        an administrator has ended it; sending it again is possible
    │   ├── RequestNotFound         no running request has that id
    │   ├── StreamNotFound          no answer that could be taken up again has that id
    │   ├── SkillNotFound           no skill has that name, or several do
    │   └── ModelNotFound           no routable model has that name, but another one is loaded
    ├── AccessError             who asks may not do this, or not from there
    │   ├── KeyRefused              the inference key is missing or wrong
    │   │   └── AdminKeyRefused         the admin key is
    │   ├── AdminKeyUnset           there is no admin key, and other hosts may not destroy things
    │   ├── HostRefused             the `Host` header names a host that this is not
    │   └── OriginRefused           a web page from elsewhere wants to do more than read
    ├── CapacityError           right request, wrong moment; retry or load something
    │   ├── QueueFull               too many requests wait already
    │   ├── NoModelLoaded           nothing is loaded and nothing is loading
    │   ├── ModelLoading            the model is on its way, but not within the wait
    │   ├── NoFreeSlot              an engine has no room for one more sequence
    │   ├── OutOfMemory             the device ran out while a request was running
    │   └── Draining                the daemon is stopping
    ├── LoadError               a model cannot be brought up
    │   ├── CorruptModel            files damaged, incomplete or unreadable
    │   ├── UnsupportedModel        architecture or format no engine knows
    │   ├── DoesNotFit              memory would not suffice
    │   ├── ModelQuarantined        it failed too often in a row; only an explicit load tries again
    │   ├── LoadCrashed             the process that was loading it died
    │   ├── LoadCancelled           somebody unloaded it before it was ready
    │   └── ImportFailed            fetching or converting a model did not succeed
    ├── WorkerError             the process that holds the model failed
    │   ├── WorkerBroken            it died; `message` says how
    │   ├── WorkerClosed            it was unloaded on purpose
    │   └── WorkerStalled           it lives but delivers nothing
    ├── FrameError              bytes on the worker pipe that are no frame
    └── ConfigError             settings that cannot be used (exit status 78)

Only codes travel between processes; `from_code` turns them back into classes. HTTP status
numbers live in `lmx.schema.problems` and nowhere else.
"""

from collections.abc import Iterator


class LmxError(Exception):
    """Base of all deliberate errors.

    Args:
        message: One sentence for the person who reads it.
        param: The request field at fault, as the client spelled it.
        retry_after_s: Seconds after which a retry makes sense.
    """

    code = "internal-error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class RequestError(LmxError):
    """The client can fix it. Not raised itself."""

    code = "invalid-request"


class InvalidRequest(RequestError):
    """Malformed, of the wrong type or out of range."""


class UnsupportedFeature(RequestError):
    """A documented field this version cannot honour; never silently ignored."""

    code = "unsupported-parameter"


class ContextTooLong(RequestError):
    """The prompt does not fit the context; the message holds both numbers."""

    code = "context_length_exceeded"


class BodyTooLarge(RequestError):
    """The request body exceeds the configured limit."""

    code = "body-too-large"


class BodyTimeout(RequestError):
    """The request body did not arrive in time."""

    code = "body-timeout"


class StreamNotFound(RequestError):
    """No answer that could be taken up again has that id, or no longer."""

    code = "stream-not-found"


class SkillNotFound(RequestError):
    """No skill has that name, or several do and the name does not say which."""

    code = "skill_not_found"


class ModelNotFound(RequestError):
    """No routable model has that name. Not raised when nothing is loaded at all."""

    code = "model-not-found"


class PoisonRequest(RequestError):
    """This very request was running each time when workers died; it is refused for a while."""

    code = "poison-request"


class ModelInUse(RequestError):
    """What was asked for cannot be done to a loaded model."""

    code = "model_in_use"


class NotDeletable(RequestError):
    """A model's files are outside the folders in which LMX deletes."""

    code = "not_deletable"


class RequestCancelled(RequestError):
    """An administrator has ended the request."""

    code = "cancelled"


class RequestNotFound(RequestError):
    """No running request has that id."""

    code = "not_found"


class AccessError(LmxError):
    """Who asks may not do this, or not from there. Not raised itself."""

    code = "forbidden"


class KeyRefused(AccessError):
    """The inference key is missing or wrong, or too many wrong ones came from this address."""

    code = "unauthorized"


class AdminKeyRefused(KeyRefused):
    """The admin key is missing or wrong, or too many wrong ones came from this address."""


class AdminKeyUnset(AccessError):
    """There is no admin key, and without one other hosts may not delete or change anything."""

    code = "admin-key-required"


class HostRefused(AccessError):
    """The `Host` header names none of the machine's own names."""

    code = "host-not-allowed"


class OriginRefused(AccessError):
    """A web page from elsewhere wants to do more than read."""

    code = "origin-not-allowed"


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
    """The device ran out of memory while a request was running."""

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


class ImportFailed(LoadError):
    """Fetching or converting a model did not succeed; trying again resumes it."""

    code = "import-failed"


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


class ConfigError(LmxError):
    """Settings that cannot be used. The command line exits with status 78 (EX_CONFIG)."""

    code = "bad-config"


def _descendants(root: type[LmxError]) -> Iterator[type[LmxError]]:
    for child in root.__subclasses__():
        yield child
        yield from _descendants(child)


def from_code(code: str, message: str, *, param: str | None = None) -> LmxError:
    """Turn a code that crossed the worker pipe back into its error.

    Returns:
        The most specific class with that code; a plain `LmxError` for an unknown one.
    """
    matches = [cls for cls in _descendants(LmxError) if cls.code == code]
    leaf = [cls for cls in matches if not cls.__subclasses__()] or matches or [LmxError]
    return leaf[0](message, param=param)
