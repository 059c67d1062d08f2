"""The bodies of requests that Quart serves, and of their answers."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import trio
from quart import Response, request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from lmx.errors import BodyTimeout, BodyTooLarge
from lmx.web.exchange import PARSE_IN_THREAD_BYTES

T = TypeVar("T")


async def read_body(parse: Callable[[bytes], T]) -> T:
    """The parsed body, read with the limits of all bodies, parsed off the loop if it is large.

    Raises:
        RequestError: The body did not come whole, or `parse` refuses it.
    """
    try:
        body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    except RequestEntityTooLarge as error:
        limit = request.max_content_length
        raise BodyTooLarge(f"the request body is over {limit} bytes", param="body") from error
    except RequestTimeout as error:
        raise BodyTimeout(
            f"the request body did not arrive within {request.body_timeout:g} s"
        ) from error
    if len(body) > PARSE_IN_THREAD_BYTES:
        return await trio.to_thread.run_sync(parse, body)
    return parse(body)


def json_response(value: Any, status: int = 200) -> Response:
    """A value as the JSON body of an answer."""
    return Response(msgspec.json.encode(value), status, content_type="application/json")
