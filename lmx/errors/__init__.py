"""Every error LMX raises on purpose, sorted by whose action caused it.

    LmxError
    ├── RequestError            the client can fix it by sending something else
    │   ├── InvalidRequest          malformed, wrong type, out of range; `param` names the field
    │   ├── UnsupportedFeature      a documented field this version cannot honour
    │   ├── UnreadableContent       an image, a sound or a file where a model reads text
    │   ├── ContextTooLong          prompt does not fit the model's context
    │   ├── BodyTooLarge            request body over the limit
    │   ├── BodyTimeout             request body did not arrive in time
    │   ├── PoisonRequest           this very request has ended workers before
    │   ├── ModelInUse              what was asked for cannot be done to a loaded model
    │   ├── NotDeletable            a model's files are not LMX's to delete
    │   ├── RequestCancelled        an administrator has ended it; sending it again is possible
    │   ├── RequestNotFound         no running request has that id
    │   ├── StreamNotFound          no answer that could be taken up again has that id
    │   ├── LogNotFound             no log has that name
    │   ├── SkillNotFound           no skill has that name, or several do
    │   ├── JobNotFound             no download or other job has that id
    │   ├── TokenNotFound           nothing waits to be confirmed with that token
    │   ├── TokenExpired            it was not confirmed in time
    │   ├── EntryNotFound           there is no such preset, session or file
    │   ├── OutputExists            something stands where a job is to put its result
    │   └── ModelNotFound           no routable model has that name, but another one is loaded
    ├── AccessError             who asks may not do this, or not from there
    │   ├── KeyRefused              the inference key is missing or wrong
    │   │   └── AdminKeyRefused         the admin key is
    │   ├── AdminKeyUnset           there is no admin key, and other hosts may not destroy things
    │   ├── DownloadsDisabled       settings forbid downloads
    │   ├── RepositoryGated         a hub does not let this machine's token in
    │   ├── HostRefused             the `Host` header names a host that this is not
    │   └── OriginRefused           a web page from elsewhere wants to do more than read
    ├── CapacityError           right request, wrong moment; retry or load something
    │   ├── QueueFull               too many requests wait already
    │   ├── NoModelLoaded           nothing is loaded and nothing is loading
    │   ├── ModelLoading            the model is on its way, but not within the wait
    │   ├── NoFreeSlot              an engine has no room for one more sequence
    │   ├── OutOfMemory             memory ran out, during a request or before it
    │   └── Draining                the daemon is stopping
    ├── LoadError               a model cannot be brought up
    │   ├── CorruptModel            files damaged, incomplete or unreadable
    │   ├── UnsupportedModel        architecture or format no engine knows
    │   ├── DoesNotFit              memory would not suffice
    │   ├── ModelQuarantined        it failed too often in a row; only an explicit load tries again
    │   ├── LoadCrashed             the process that was loading it died
    │   ├── LoadCancelled           somebody unloaded it before it was ready
    │   ├── HubUnreachable          a hub does not answer, or with nothing that helps
    │   ├── ChecksumMismatch        what was downloaded is not what was announced
    │   ├── StorageFull             the disk has no room
    │   ├── JobFailed               the system refused what a job process needs
    │   │   └── JobCrashed              a job process died
    │   └── ImportFailed            fetching or converting a model did not succeed
    ├── WorkerError             the process that holds the model failed
    │   ├── WorkerBroken            it died; `message` says how
    │   ├── WorkerClosed            it was unloaded on purpose
    │   └── WorkerStalled           it lives but delivers nothing
    ├── FrameError              bytes on the worker pipe that are no frame
    ├── AlreadyRunning          another daemon serves this `LMX_HOME` (exit status 75)
    └── ConfigError             settings that cannot be used (exit status 78)

Only codes travel between processes; `from_code` turns them back into classes. HTTP status
numbers live in `lmx.schema.problems` and nowhere else.
"""

from collections.abc import Iterator

from lmx.errors.base import (
    LmxError,
)
from lmx.errors.model import (
    CapacityError,
    ChecksumMismatch,
    CorruptModel,
    DoesNotFit,
    Draining,
    HubUnreachable,
    ImportFailed,
    JobCrashed,
    JobFailed,
    LoadCancelled,
    LoadCrashed,
    LoadError,
    ModelLoading,
    ModelQuarantined,
    NoFreeSlot,
    NoModelLoaded,
    OutOfMemory,
    QueueFull,
    StorageFull,
    UnsupportedModel,
)
from lmx.errors.process import (
    AlreadyRunning,
    ConfigError,
    FrameError,
    WorkerBroken,
    WorkerClosed,
    WorkerError,
    WorkerStalled,
)
from lmx.errors.request import (
    AccessError,
    AdminKeyRefused,
    AdminKeyUnset,
    BodyTimeout,
    BodyTooLarge,
    ContextTooLong,
    DownloadsDisabled,
    EntryNotFound,
    HostRefused,
    InvalidRequest,
    JobNotFound,
    KeyRefused,
    LogNotFound,
    ModelInUse,
    ModelNotFound,
    NotDeletable,
    OriginRefused,
    OutputExists,
    PoisonRequest,
    RepositoryGated,
    RequestCancelled,
    RequestError,
    RequestNotFound,
    SkillNotFound,
    StreamNotFound,
    TokenExpired,
    TokenNotFound,
    UnreadableContent,
    UnsupportedFeature,
)

__all__ = [
    "AccessError",
    "AdminKeyRefused",
    "AdminKeyUnset",
    "AlreadyRunning",
    "BodyTimeout",
    "BodyTooLarge",
    "CapacityError",
    "ChecksumMismatch",
    "ConfigError",
    "ContextTooLong",
    "CorruptModel",
    "DoesNotFit",
    "DownloadsDisabled",
    "Draining",
    "EntryNotFound",
    "FrameError",
    "HostRefused",
    "HubUnreachable",
    "ImportFailed",
    "InvalidRequest",
    "JobCrashed",
    "JobFailed",
    "JobNotFound",
    "KeyRefused",
    "LmxError",
    "LoadCancelled",
    "LoadCrashed",
    "LoadError",
    "LogNotFound",
    "ModelInUse",
    "ModelLoading",
    "ModelNotFound",
    "ModelQuarantined",
    "NoFreeSlot",
    "NoModelLoaded",
    "NotDeletable",
    "OriginRefused",
    "OutOfMemory",
    "OutputExists",
    "PoisonRequest",
    "QueueFull",
    "RepositoryGated",
    "RequestCancelled",
    "RequestError",
    "RequestNotFound",
    "SkillNotFound",
    "StorageFull",
    "StreamNotFound",
    "TokenExpired",
    "TokenNotFound",
    "UnreadableContent",
    "UnsupportedFeature",
    "UnsupportedModel",
    "WorkerBroken",
    "WorkerClosed",
    "WorkerError",
    "WorkerStalled",
    "from_code",
]


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
