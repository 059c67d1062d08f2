"""``/openapi.json`` and ``/docs``: the API's description, and a page that renders it.

The page is one file without outside requests: it fetches the description from the same server and
lays it out with a few lines of script.
"""

import functools
from importlib.resources import files

import msgspec

from lmx import __version__
from lmx.schema.openapi import openapi_document
from lmx.web.exchange import Answer, Exchange

HTML = ((b"content-type", b"text/html; charset=utf-8"),)


@functools.cache
def _document() -> bytes:
    return msgspec.json.encode(openapi_document(__version__))


@functools.cache
def _page() -> bytes:
    return files("lmx.web").joinpath("docs.html").read_bytes()


async def show_openapi(_exchange: Exchange) -> Answer:
    """``GET /openapi.json``."""
    return Answer(_document())


async def show_docs(_exchange: Exchange) -> Answer:
    """``GET /docs``."""
    return Answer(_page(), headers=HTML)
