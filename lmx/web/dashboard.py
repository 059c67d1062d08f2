"""The dashboard: a page of static files, served from memory.

The files are a fixed table, each under a path of its own; no part of a request's path ever meets a
folder. They hold nothing secret and need no key: the page asks for one when the API wants it.
"""

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from lmx.web.exchange import NOT_MODIFIED, Answer, Exchange, Handler

PAGE_PATH = "/admin/ui"
PAGE = "index.html"
JAVASCRIPT = "text/javascript; charset=utf-8"
CONTENT_TYPES: Mapping[str, str] = {
    PAGE: "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "answer.js": JAVASCRIPT,
    "api.js": JAVASCRIPT,
    "bubble.js": JAVASCRIPT,
    "charts.js": JAVASCRIPT,
    "chat.js": JAVASCRIPT,
    "clock.js": JAVASCRIPT,
    "dom.js": JAVASCRIPT,
    "events.js": JAVASCRIPT,
    "exits.js": JAVASCRIPT,
    "key.js": JAVASCRIPT,
    "log.js": JAVASCRIPT,
    "main.js": JAVASCRIPT,
    "measures.js": JAVASCRIPT,
    "memory.js": JAVASCRIPT,
    "models.js": JAVASCRIPT,
    "poll.js": JAVASCRIPT,
    "pull.js": JAVASCRIPT,
    "requests.js": JAVASCRIPT,
    "skills.js": JAVASCRIPT,
    "sse.js": JAVASCRIPT,
}
# Nothing from elsewhere, nothing inline, and no page may frame this one.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HTML_TYPE = "text/html"
JSON_TYPE = "application/json"
VARY = (b"vary", b"accept")


class StaticFile:
    """One file in memory, as a raw handler.

    Args:
        name: In the table above.
    """

    def __init__(self, name: str) -> None:
        body = files("lmx.web").joinpath("dashboard", name).read_bytes()
        self._etag = f'"{sha256(body).hexdigest()[:32]}"'.encode()
        headers = (
            (b"content-type", CONTENT_TYPES[name].encode()),
            (b"cache-control", b"no-cache"),  # ask each time; the answer is mostly a 304
            (b"etag", self._etag),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
        )
        self._whole = Answer(body, headers=headers)
        self._unchanged = Answer(b"", NOT_MODIFIED, headers[1:])

    async def __call__(self, exchange: Exchange) -> Answer:
        """``GET`` of this file."""
        known = _header(exchange, b"if-none-match")
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        return self._unchanged if self._etag.decode() in tags else self._whole


class FrontDoor:
    """``GET /``: the page for browsers, the index for everybody else.

    Args:
        page: For clients that want HTML more than JSON.
        index: For the others.
    """

    def __init__(self, page: StaticFile, index: Handler) -> None:
        self._page = page
        self._index = index

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange."""
        wants_page = prefers_html(_header(exchange, b"accept"))
        answer = await (self._page if wants_page else self._index)(exchange)
        if answer is None:
            return None
        return Answer(answer.body, answer.status, (*answer.headers, VARY))


def dashboard_routes(index: Handler) -> dict[tuple[str, str], Handler]:
    """The raw handlers by method and path.

    Args:
        index: Answers ``GET /`` to clients that are no browsers.
    """
    assets = {name: StaticFile(name) for name in CONTENT_TYPES}
    page = assets.pop(PAGE)
    return {
        ("GET", "/"): FrontDoor(page, index),
        ("GET", PAGE_PATH): page,
        ("GET", f"{PAGE_PATH}/"): page,
        **{("GET", f"{PAGE_PATH}/{name}"): asset for name, asset in assets.items()},
    }


def prefers_html(accept: str) -> bool:
    """Whether a client that sent this ``Accept`` header would rather have HTML than JSON.

    Of two that are wanted as much, the one that is named more exactly wins, and JSON a draw.
    """
    weight, exactness = _wanted(accept, HTML_TYPE)
    return weight > 0 and (weight, exactness) > _wanted(accept, JSON_TYPE)


def _wanted(accept: str, kind: str) -> tuple[float, int]:
    """Weight and exactness of the most exact range that covers a media type."""
    ranges = ("*/*", f"{kind.partition('/')[0]}/*", kind)
    found = (-1, 0.0)
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_range in ranges:
            found = max(found, (ranges.index(media_range), _weight(parameters)))
    exactness, weight = found
    return weight, exactness


def _weight(parameters: list[str]) -> float:
    """The quality of a media range; one that cannot be read counts as not wanted."""
    texts = [text[2:] for text in parameters if text.startswith("q=")]
    try:
        return float(texts[0]) if texts else 1.0
    except ValueError:
        return 0.0


def _header(exchange: Exchange, name: bytes) -> str:
    values = [value for key, value in exchange.scope["headers"] if key == name]
    return b",".join(values).decode("latin-1")
