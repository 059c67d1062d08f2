"""One HTTP client for every command: it turns each failure into a sentence and an exit status.

Knows the envelope of errors and no route. Blocking on purpose: a command does one thing at a time,
and Ctrl-C is then a `KeyboardInterrupt` where the answer is waited for.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.target import Target

CONNECT_S = 5.0
ANSWER_S = 30.0
END_OF_STREAM = "[DONE]"
# Codes that say more than their status does.
STATUS_OF_CODE = {
    "out_of_memory": Exit.NO_ROOM,
    "insufficient_memory": Exit.NO_ROOM,
    "storage-full": Exit.NO_ROOM,
    "downloads_disabled": Exit.FAILED,
    "bad-config": Exit.CONFIG,
    "method-not-allowed": Exit.FAILED,
}
STATUS_OF_HTTP = {
    400: Exit.USAGE,
    401: Exit.REFUSED,
    403: Exit.REFUSED,
    404: Exit.NOT_FOUND,
    507: Exit.NO_ROOM,
}
FIRST_REFUSAL = 400
KEY_CODES = frozenset({"unauthorized", "admin-key-required"})
KEY_ADVICE = "; give the key with --admin-key, OPTA_ADMIN_KEY or security.admin_key"


class Client:
    """Asks one daemon.

    Args:
        target: Where it is, and the keys.

    Attributes:
        target: The same.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._http = httpx2.Client(
            base_url=target.url,
            headers=target.headers(),
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=False,  # no proxy stands between a machine and its LAN
        )

    def get(self, path: str, *, timeout_s: float = ANSWER_S, **params: Any) -> Any:
        """The document at a path.

        Raises:
            CommandFailed: Why there is none.
        """
        return self.ask("GET", path, timeout_s=timeout_s, params=params)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """The answer to a document; `None` as the limit waits for as long as it takes.

        Raises:
            CommandFailed: Why there is none.
        """
        return self.ask("POST", path, timeout_s=timeout_s, json=dict(body or {}))

    def ask(self, method: str, path: str, *, timeout_s: float | None, **more: Any) -> Any:
        """The decoded answer to any request.

        Raises:
            CommandFailed: Why there is none.
        """
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
        with self._failing():
            response = self._http.request(method, path, timeout=timeout, **more)
        if response.status_code >= FIRST_REFUSAL:
            raise refusal(response)
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger(path) from error

    def probe(self, path: str, *, timeout_s: float) -> "httpx2.Response":
        """A response of any status, for those who judge it themselves.

        Raises:
            CommandFailed: There is none.
        """
        with self._failing():
            return self._http.get(path, timeout=timeout_s)

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The documents of a stream, as they come. Closing the generator hangs up.

        Raises:
            CommandFailed: It was refused or broke off; or an event says that it failed.
        """
        # Silence has a limit: the daemon sends a comment every few seconds.
        timeout = httpx2.Timeout(None, connect=CONNECT_S)
        with (
            self._failing(),
            self._http.stream("POST", path, json=dict(body), timeout=timeout) as response,
        ):
            if response.status_code >= FIRST_REFUSAL:
                response.read()
                raise refusal(response)
            for line in response.iter_lines():
                field, _, data = line.partition(":")
                if field == "data" and data.strip() != END_OF_STREAM:
                    yield _checked(json.loads(data))

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        url = self.target.url
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise CommandFailed(
                f"no daemon answers at {url}; `lmx serve` starts one, --url names another",
                Exit.UNREACHABLE,
                "unreachable",
            ) from error
        except httpx2.TimeoutException as error:
            raise CommandFailed(
                f"the daemon at {url} did not answer in time", Exit.UNREACHABLE, "timeout"
            ) from error
        except httpx2.TransportError as error:
            raise CommandFailed(
                f"the connection to {url} broke off: {error or type(error).__name__}",
                Exit.UNREACHABLE,
                "unreachable",
            ) from error

    def _stranger(self, path: str) -> CommandFailed:
        return CommandFailed(
            f"what answers at {self.target.url}{path} is no LMX", Exit.UNREACHABLE, "no-lmx"
        )


def refusal(response: "httpx2.Response") -> CommandFailed:
    """What the daemon said instead of an answer."""
    try:
        document = response.json()
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    detail = document.get("error")
    message = detail.get("message") if isinstance(detail, dict) else detail
    code = document.get("code")
    code = code if isinstance(code, str) else f"http_{response.status_code}"
    if not isinstance(message, str) or not message:
        message = f"the daemon answered with status {response.status_code}"
    if code in KEY_CODES:
        message = message.rstrip(".") + KEY_ADVICE
    by_http = STATUS_OF_HTTP.get(response.status_code, Exit.FAILED)
    return CommandFailed(message, STATUS_OF_CODE.get(code, by_http), code)


def _checked(event: Any) -> dict[str, Any]:
    """An event that is no error."""
    if not isinstance(event, dict):
        return {}
    error = event.get("error")
    if isinstance(error, dict):
        code = str(error.get("code") or "failed")
        raise CommandFailed(str(error.get("message")), STATUS_OF_CODE.get(code, Exit.FAILED), code)
    return event
