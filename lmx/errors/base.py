"""The base of all deliberate errors."""


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
