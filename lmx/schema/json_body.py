"""JSON bodies of requests, read strictly: what is ambiguous or hostile is refused by name.

msgspec does the typed decoding; it already refuses NaN, lone surrogates and invalid UTF-8. What it
does not see are duplicate keys, of which it would silently keep the last, so a second pass over the
same bytes looks for those alone.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lmx.errors import InvalidRequest

T = TypeVar("T")

# As msgspec writes it: "Expected `float`, got `str` - at `$.messages[0].content`". Inside an object
# with free keys it says "at `$.logit_bias[...]`" or "at `key` in `$.logit_bias`".
_LOCATION = re.compile(r" - at (?:`key` in )?`(?:key in )?\$\.?(?P<path>[^`]*)`$")
_ANY_KEY = "[...]"
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")
BODY = "body"


def decode_body(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a request body.

    Raises:
        InvalidRequest: With `param` naming the field, or ``body`` when no field is to blame.
    """
    if not body:
        raise InvalidRequest("the body is empty; a JSON object is needed", param=BODY)
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise explain_mismatch(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", param=BODY) from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply", param=BODY) from error
    _refuse_duplicate_keys(body)
    return value


def explain_mismatch(error: msgspec.ValidationError) -> InvalidRequest:
    """What msgspec found wrong, with the field at fault as `param`."""
    text = str(error)
    location = _LOCATION.search(text)
    path = location["path"].partition(_ANY_KEY)[0] if location else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing['field']}" if path else missing["field"]
    return InvalidRequest(_LOCATION.sub("", text), param=path or BODY)


def parse_query(values: Mapping[str, str], kind: type[T]) -> T:
    """Read a query string; keys that are not known have no effect.

    Raises:
        InvalidRequest: A value is of the wrong type; `param` names it.
    """
    try:
        return msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as error:
        raise explain_mismatch(error) from error


def _refuse_duplicate_keys(body: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequest(f"the key {key!r} appears twice in one object", param=key)
            seen.add(key)

    try:
        json.loads(body, object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        # Python's parser is stricter than msgspec in nothing we rely on but depth.
        raise InvalidRequest(f"the body is not valid JSON: {error}", param=BODY) from error
