"""Every way to ask tells how much of the prompt was there already, in a header and in the usage."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import COMPLETION_PATH, chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, stream_chunks, wait_until
from tests.scrapes import Scraped

HEADER = "x-lmx-cache"
LONG = "a long story about nothing " * 12


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One model that keeps prefixes and one that does not."""
    models = ("fake:keeps?keep=100000&tokens=4", "fake:forgets?tokens=4")
    with shared_daemon(tmp_path_factory.mktemp("home"), *models) as shared:
        yield shared


def complete(daemon: Daemon, prompt: Any, **fields: Any) -> Any:
    """A completion of the model that keeps prefixes."""
    return post(daemon, COMPLETION_PATH, **{"model": "keeps", "prompt": prompt, **fields})


def cached(usage: Any) -> int:
    """How much of the prompts the usage says was skipped."""
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_a_whole_answer(daemon: Daemon) -> None:
    """The second time all but the last token is there."""
    prompt, size = f"one: {LONG}", len(LONG) + 5
    first, second = complete(daemon, prompt), complete(daemon, prompt)
    assert f"miss; cached=0; prompt={size}; miss=no-entry" == first.headers[HEADER]
    assert f"hit; cached={size - 1}; prompt={size}" == second.headers[HEADER]
    assert [0, size - 1] == [cached(reply.json()["usage"]) for reply in (first, second)]


def test_a_stream(daemon: Daemon) -> None:
    """The header comes before the first event, the usage with the last one."""
    messages = [{"role": "user", "content": f"two: {LONG}"}]
    for is_second in (False, True):
        reply = chat(
            daemon,
            "keeps",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
        )
        verdict, count, size = reply.headers[HEADER].split("; ")[:3]
        usage = stream_chunks(reply.body)[-1]["usage"]
        assert f"cached={cached(usage)}" == count
        assert f"prompt={usage['prompt_tokens']}" == size
        assert ("hit" if is_second else "miss") == verdict
    resumable = chat(daemon, "keeps", messages=messages, stream=True, resumable=True)
    assert resumable.headers[HEADER] == reply.headers[HEADER]


def test_several_prompts_are_one_line(daemon: Daemon) -> None:
    """Their tokens are added, and the first reason stands for all."""
    prompts = [f"three: {LONG}", f"four: {LONG}"]
    complete(daemon, prompts[0])
    reply = complete(daemon, prompts)
    sizes = [len(prompt) for prompt in prompts]
    expected = f"part; cached={sizes[0] - 1}; prompt={sum(sizes)}; miss=no-entry"
    assert expected == reply.headers[HEADER]
    assert sizes[0] - 1 == cached(reply.json()["usage"])


def test_a_parted_conversation(daemon: Daemon) -> None:
    """What changed in the middle is named; a new last message is no miss."""
    system = {"role": "system", "content": f"{LONG}\nIt is 10:15."}
    ask = [system, {"role": "user", "content": "Hello"}]
    chat(daemon, "keeps", messages=ask)
    other = [system, {"role": "user", "content": "Goodbye"}]
    assert chat(daemon, "keeps", messages=other).headers[HEADER].startswith("hit; cached=")
    later = [{**system, "content": f"{LONG}\nIt is 10:16."}, ask[1]]
    assert chat(daemon, "keeps", messages=later).headers[HEADER].endswith("; miss=volatile")
    edited = [{**system, "content": f"{LONG}\nBe kind."}, ask[1]]
    assert chat(daemon, "keeps", messages=edited).headers[HEADER].endswith("; miss=diverged")


def test_a_model_that_keeps_nothing(daemon: Daemon) -> None:
    """It says so."""
    reply = chat(daemon, "forgets", messages=[{"role": "user", "content": "Hi"}])
    assert reply.headers[HEADER].endswith("; miss=off")


def test_what_is_skipped_is_counted(daemon: Daemon) -> None:
    """The metrics of the prefix cache grow with what usage says."""
    before = hits(daemon)
    usage = [complete(daemon, f"five: {LONG}").json()["usage"] for _ in range(2)][1]
    assert before + cached(usage) == hits(daemon)


def test_what_is_kept_is_shown(daemon: Daemon) -> None:
    """Its bytes and pieces, told when nobody is left and some time has passed."""

    def is_shown() -> bool:
        complete(daemon, f"six: {LONG}")
        found = [read(daemon, f"lmx_prefix_cache_{name}") for name in ("bytes", "entries")]
        return found[0] >= 1024 * len(LONG) and found[1] >= 1

    assert wait_until(is_shown)


def hits(daemon: Daemon) -> int:
    """Tokens skipped so far, by the metrics."""
    return int(read(daemon, "vllm:prefix_cache_hits_total", label="model_name"))


def read(daemon: Daemon, name: str, *, label: str = "model") -> float:
    """A metric of the model that keeps prefixes."""
    with Connection(daemon) as connection:
        scraped = Scraped(connection.ask("GET", "/metrics").body.decode())
    return scraped.value(name, **{label: "keeps"})
