"""What who asks can change: requests that cannot be answered, and access that is refused."""

from lmx.errors.base import LmxError


class RequestError(LmxError):
    """The client can fix it. Not raised itself."""

    code = "invalid-request"


class InvalidRequest(RequestError):
    """Malformed, of the wrong type or out of range."""


class UnsupportedFeature(RequestError):
    """A documented field this version cannot honour; never silently ignored."""

    code = "unsupported-parameter"


class UnreadableContent(RequestError):
    """A message holds an image, a sound or a file, and the model reads text."""

    code = "unsupported-content"


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


class LogNotFound(RequestError):
    """No log has that name."""

    code = "log-not-found"


class SkillNotFound(RequestError):
    """No skill has that name, or several do and the name does not say which."""

    code = "skill_not_found"


class JobNotFound(RequestError):
    """No download or other job has that id."""

    code = "job_not_found"


class TokenNotFound(RequestError):
    """Nothing waits to be confirmed with that token."""

    code = "token_not_found"


class TokenExpired(RequestError):
    """What the token stood for was not confirmed in time."""

    code = "token_expired"


class OutputExists(RequestError):
    """Something stands where a job is to put its result, and is not replaced."""

    code = "output_exists"


class EntryNotFound(RequestError):
    """There is no such preset, session or file."""

    code = "entry_not_found"


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


class DownloadsDisabled(AccessError):
    """Settings forbid downloads."""

    code = "downloads_disabled"


class RepositoryGated(AccessError):
    """A hub does not let this machine's token in; the message says what would help."""

    code = "repository_gated"


class HostRefused(AccessError):
    """The `Host` header names none of the machine's own names."""

    code = "host-not-allowed"


class OriginRefused(AccessError):
    """A web page from elsewhere wants to do more than read."""

    code = "origin-not-allowed"
