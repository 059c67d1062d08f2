"""Clients of LMX's routes for vectors and scores: one connection each, kept open.

What is timed ends with the last byte of an answer; reading the numbers out of it is the client's
own cost, which differs from language to language, and is left out.
"""

import base64
import json
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

from scripts.bench.vector_work import Outcome, Work

TIMEOUT_S = 300.0


def run_work(port: int, work: Work, encoding: str, *, model: str) -> Outcome:
    """Send all requests of the work, as many at once as it has clients.

    Args:
        port: Where LMX listens on this machine.
        work: What to send.
        encoding: ``float`` or ``base64``, of vectors.
        model: The model's name.

    Raises:
        RuntimeError: A request was not answered with 200.
    """
    bodies = [_body(group, work.query, encoding, model=model) for group in work.groups(work.size)]
    path = "/v1/rerank" if work.query else "/v1/embeddings"
    numbered = iter(enumerate(bodies))
    answers: dict[int, tuple[int, bytes]] = {}
    clients = [
        threading.Thread(target=_client, args=(port, path, numbered, answers))
        for _ in range(work.clients)
    ]
    began_s = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seconds = time.perf_counter() - began_s
    refused = [body for status, body in answers.values() if status != HTTPStatus.OK]
    if refused or len(answers) != len(bodies):
        raise RuntimeError(f"{len(refused)} of {len(bodies)} requests failed: {refused[:1]}")
    first = _first_numbers(json.loads(answers[0][1]))
    return Outcome(len(work.texts), seconds, first=tuple(first))


def _body(texts: list[str], query: str, encoding: str, *, model: str) -> bytes:
    if query:
        fields: dict[str, Any] = {"query": query, "documents": texts, "return_documents": False}
    else:
        fields = {"input": texts, "encoding_format": encoding}
    return json.dumps({"model": model, **fields}).encode()


def _client(
    port: int,
    path: str,
    bodies: Iterator[tuple[int, bytes]],
    answers: dict[int, tuple[int, bytes]],
) -> None:
    """Take one body after another until there is none. An enumerator gives each out once."""
    headers = {"content-type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        for number, body in bodies:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answers[number] = response.status, response.read()


def _first_numbers(answer: dict[str, Any]) -> Sequence[float]:
    """Of the text with index 0."""
    if "results" in answer:
        scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
        return [scores[0]]
    vector = answer["data"][0]["embedding"]
    if isinstance(vector, str):
        packed = base64.b64decode(vector)
        return struct.unpack(f"<{len(packed) // 4}f", packed)
    return [float(number) for number in vector]
