"""Bodies and query strings of the admin routes: every client's spelling, and clear refusals."""

import json
from typing import Any

import pytest

from lmx.errors import InvalidRequest, LmxError, UnsupportedModel
from lmx.schema.admin_requests import (
    CompatibilityQuery,
    parse_compatibility_query,
    parse_load_request,
    parse_probe_request,
    parse_unload_request,
)


def body(**fields: Any) -> bytes:
    """A JSON object."""
    return json.dumps(fields).encode()


def test_what_the_command_line_sends() -> None:
    """Every field of a load is read; those without an effect are accepted."""
    request = parse_load_request(
        body(
            model_id="org/name",
            backend="vllm-mlx",
            auto_download=True,
            performance_overrides={"a": 1},
            keep_alive_sec=60,
            allow_unsupported_runtime=False,
            max_context_length=8192,
        )
    )
    assert ("org/name", "mlx", 60, 8192) == (
        request.name,
        request.format,
        request.keep_alive_s,
        request.max_context_length,
    )
    assert {"a": 1} == request.performance_overrides


@pytest.mark.parametrize(
    "fields", [{"model": "m"}, {"model_id": "m"}, {"model_id": "m", "x": None}]
)
def test_either_key_names_the_model(fields: dict[str, Any]) -> None:
    """Some clients say `model`; nulls stand for absent fields."""
    request = parse_load_request(body(**fields, backend=None, keep_alive_sec=None))
    assert ("m", None, None) == (request.name, request.format, request.keep_alive_s)


@pytest.mark.parametrize(
    ("asked", "backend"),
    [("auto", "auto"), ("mlx", "mlx"), ("mlx-lm", "mlx"), ("vllm-mlx", "mlx"), ("gguf", "gguf")],
)
@pytest.mark.parametrize("key", ["backend", "backend_hint"])
def test_backends_go_by_several_names(key: str, asked: str, backend: str) -> None:
    """Names of libraries mean the format that they read."""
    assert backend == parse_load_request(body(model_id="m", **{key: asked})).format


def test_an_unknown_backend_is_unsupported() -> None:
    """It is well-formed and cannot be had: 422, with the field at fault."""
    with pytest.raises(UnsupportedModel) as caught:
        parse_load_request(body(model_id="m", backend="torch"))
    assert "backend" == caught.value.param


@pytest.mark.parametrize(("sent", "kept"), [(0, -1.0), (-5, -1.0), (0.5, 0.5), (3600, 3600.0)])
def test_no_keep_alive_is_for_ever(sent: float, kept: float) -> None:
    """Clients say 0 for never, which the loader spells as a negative number."""
    assert kept == parse_load_request(body(model_id="m", keep_alive_sec=sent)).keep_alive_s


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b"", "model_id"),
        (b"{}", "model_id"),
        (body(model_id=""), "model_id"),
        (body(model_id=1), "model_id"),
        (body(model_id="m", max_context_length=0), "max_context_length"),
        (body(model_id="m", keep_alive_sec="x"), "keep_alive_sec"),
        (body(model_id="m", performance_overrides=[]), "performance_overrides"),
        (body(model_id="m", contxt=1), "contxt"),
        (b"[]", "body"),
        (b"{", "body"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, param: str) -> None:
    """A refusal says which field is at fault."""
    with pytest.raises(InvalidRequest) as caught:
        parse_load_request(data)
    assert param == caught.value.param


@pytest.mark.parametrize("data", [b"", b" \n", b"{}", b'{"model_id": null}'])
def test_an_unload_may_name_nothing(data: bytes) -> None:
    """An empty body means the current model."""
    assert parse_unload_request(data).name is None


def test_an_unload_may_name_a_model() -> None:
    """Under the same keys as a load."""
    assert "m" == parse_unload_request(body(model="m")).name


def test_a_probe_has_a_limit() -> None:
    """Ninety seconds unless it says otherwise."""
    assert 90 == parse_probe_request(body(model_id="m")).timeout_s
    assert 2 == parse_probe_request(body(model_id="m", timeout_sec=2)).timeout_s


@pytest.mark.parametrize("data", [b"", body(model_id="m", timeout_sec=901), body(timeout_sec=5)])
def test_a_probe_is_checked(data: bytes) -> None:
    """It needs a model, and an end."""
    with pytest.raises(LmxError):
        parse_probe_request(data)


def test_a_query_is_read() -> None:
    """Numbers and words come as text."""
    query = parse_compatibility_query(
        {
            "model_id": "m",
            "outcome": "fail",
            "since_ts": "1.5",
            "limit": "3",
            "include_summary": "1",
        }
    )
    expected = CompatibilityQuery(
        model_id="m", outcome="fail", since_ts=1.5, limit=3, include_summary=True
    )
    assert expected == query


def test_an_empty_query_asks_for_all() -> None:
    """So do names without a value, and keys that nobody knows."""
    assert CompatibilityQuery() == parse_compatibility_query({"model_id": "", "page": "2"})


@pytest.mark.parametrize(
    ("name", "text"),
    [("limit", "x"), ("limit", "0"), ("since_ts", "now"), ("outcome", "maybe"), ("limit", "")],
)
def test_a_wrong_query_is_named(name: str, text: str) -> None:
    """With the key at fault."""
    with pytest.raises(InvalidRequest) as caught:
        parse_compatibility_query({name: text})
    assert name == caught.value.param
