"""``POST /v1/completions``: prompts of every kind, echo, log-probabilities, best of several."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import COMPLETION_PATH, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, event_blocks, stream_chunks, wait_until

WORDS = 10
HEAD_FIELDS = ("id", "object", "created", "model", "system_fingerprint", "choices")
Choice = dict[str, Any]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model of words, one with markup in its answer, and one that dies."""
    models = (
        f"fake:words?tokens={WORDS}&step_ms=1&max_sequences=32",
        "fake:markup?text=a+%3Cthink%3Eb%3C/think%3E+c++",
        "fake:crash?step_ms=2&fail=exit&fail_step=4",
    )
    with shared_daemon(tmp_path_factory.mktemp("home"), *models) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def complete(daemon: Daemon, prompt: Any = "Once", **fields: Any) -> Reply:
    """One greedy completion unless the fields say otherwise."""
    merged = {"model": "words", "temperature": 0, "prompt": prompt, **fields}
    reply = post(daemon, COMPLETION_PATH, **merged)
    assert 200 == reply.status, reply.body
    return reply


def fold(body: bytes) -> list[Choice]:
    """The choices of a stream as a whole answer would have them."""
    choices: dict[int, Choice] = {}
    for chunk in stream_chunks(body):
        for piece in chunk["choices"]:
            made = choices.setdefault(piece["index"], {**piece, "text": "", "logprobs": None})
            made["text"] += piece["text"]
            made["finish_reason"] = piece["finish_reason"]
            made["logprobs"] = join(made["logprobs"], piece["logprobs"])
    return [choices[index] for index in sorted(choices)]


def join(before: Choice | None, after: Choice | None) -> Choice | None:
    """Log-probabilities of two stretches as those of one."""
    if before is None or after is None:
        return before or after
    return {
        key: None if before[key] is None and after[key] is None
        else (before[key] or []) + (after[key] or [])
        for key in before
    }  # fmt: skip


def both(daemon: Daemon, prompt: Any = "Once", **fields: Any) -> list[Choice]:
    """The choices, after checking that streamed and whole agree."""
    whole = complete(daemon, prompt, **fields).json()["choices"]
    assert whole == fold(complete(daemon, prompt, stream=True, **fields).body)
    return list(whole)


def test_a_whole_completion(daemon: Daemon) -> None:
    """OpenAI's legacy document, with counts, and nothing else."""
    document = complete(daemon).json()
    assert (*HEAD_FIELDS, "usage") == tuple(document)
    assert ("text_completion", "words") == (document["object"], document["model"])
    assert document["id"].startswith("cmpl-")
    [choice] = document["choices"]
    assert (0, None, "stop") == (choice["index"], choice["logprobs"], choice["finish_reason"])
    assert WORDS == len(choice["text"].split())
    usage = document["usage"]
    assert (len("Once"), WORDS + 1) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_a_streamed_completion(daemon: Daemon) -> None:
    """Chunks of the same head, text in many of them, one reason, then [DONE]."""
    reply = complete(daemon, stream=True)
    assert "text/event-stream; charset=utf-8" == reply.headers["content-type"]
    chunks = stream_chunks(reply.body)
    assert {HEAD_FIELDS} == {tuple(chunk) for chunk in chunks}
    assert 1 == len({tuple(chunk[name] for name in HEAD_FIELDS[:5]) for chunk in chunks})
    assert b"data: [DONE]" == event_blocks(reply.body)[-1]
    assert len(chunks) > WORDS / 4
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [None] * (len(reasons) - 1) + ["stop"] == reasons


def test_streamed_usage_agrees(daemon: Daemon) -> None:
    """With the option a last chunk without choices holds the counts of all prompts."""
    fields: dict[str, Any] = {"n": 2}
    usage = complete(daemon, ["Once", "Twice"], **fields).json()["usage"]
    options = {"include_usage": True}
    body = complete(daemon, ["Once", "Twice"], stream=True, stream_options=options, **fields).body
    last = stream_chunks(body)[-1]
    assert ([], usage) == (last["choices"], last["usage"])
    assert (len("OnceTwice"), 4 * (WORDS + 1)) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def test_sixteen_tokens_unless_told(daemon: Daemon) -> None:
    """The legacy default is short."""
    [choice] = both(daemon, ignore_eos=True)
    assert (16, "length") == (len(choice["text"].split()), choice["finish_reason"])


def test_token_ids_are_a_prompt(daemon: Daemon) -> None:
    """The ids of a text give what the text gives; lists of ids are several prompts."""
    text, ids = "Once", list(b"Once")
    [expected] = both(daemon, text)
    assert [expected] == both(daemon, ids)
    assert [expected["text"]] * 2 == [choice["text"] for choice in both(daemon, [ids, ids])]


def test_several_prompts_answer_in_order(daemon: Daemon) -> None:
    """Choice `j` of prompt `i` stands at `i * n + j`."""
    prompts = ["a", "bb", "ccc"]
    fields: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 4}
    alone = [choice["text"] for p in prompts for choice in both(daemon, p, **fields)]
    together = both(daemon, prompts, **fields)
    assert alone == [choice["text"] for choice in together]
    assert list(range(6)) == [choice["index"] for choice in together]


def test_more_prompts_than_slots(daemon: Daemon) -> None:
    """Prompts wait for slots like requests of their own."""
    prompts = [f"prompt {number}" for number in range(48)]
    texts = [choice["text"] for choice in both(daemon, prompts, max_tokens=3)]
    assert 48 == len(texts)
    assert texts[-1] == both(daemon, prompts[-1], max_tokens=3)[0]["text"]


def test_echo_puts_the_prompt_first(daemon: Daemon) -> None:
    """Every choice repeats its own prompt."""
    plain = both(daemon, ["Once", "Two"], n=2)
    echoed = both(daemon, ["Once", "Two"], n=2, echo=True)
    prompts = ["Once", "Once", "Two", "Two"]
    assert [p + c["text"] for p, c in zip(prompts, plain, strict=True)] == [
        choice["text"] for choice in echoed
    ]


def test_echo_of_token_ids_is_their_text(daemon: Daemon) -> None:
    """Ids are spelt out, characters of several tokens whole."""
    [choice] = both(daemon, list("é🎉".encode()), echo=True)
    assert choice["text"].startswith("é🎉")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs_in_parallel_lists(daemon: Daemon, count: int) -> None:
    """Tokens spell the text, offsets point at them, alternatives are as many as asked for."""
    [choice] = both(daemon, logprobs=count)
    scores = choice["logprobs"]
    assert choice["text"] == "".join(scores["tokens"])
    assert_offsets(choice)
    assert WORDS == len(scores["token_logprobs"])
    if count == 0:
        assert scores["top_logprobs"] is None
    else:
        assert {count} == {len(top) for top in scores["top_logprobs"]}


def assert_offsets(choice: Choice) -> None:
    """Each token stands in the text where its offset says."""
    scores = choice["logprobs"]
    for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
        assert token == choice["text"][offset : offset + len(token)]


def test_echoed_logprobs_begin_with_the_prompt(daemon: Daemon) -> None:
    """The prompt's tokens are scored too, but nothing predicts its first."""
    [choice] = both(daemon, "Once", echo=True, logprobs=2)
    scores = choice["logprobs"]
    assert ["O", "n", "c", "e"] == scores["tokens"][:4]
    assert (None, None) == (scores["token_logprobs"][0], scores["top_logprobs"][0])
    assert all(isinstance(value, float) for value in scores["token_logprobs"][1:])
    assert 4 + WORDS == len(scores["tokens"])
    assert_offsets(choice)


def test_echoed_logprobs_of_every_choice(daemon: Daemon) -> None:
    """All choices of all prompts have the scores of their own prompt."""
    choices = both(daemon, ["Once", "Two"], n=2, echo=True, logprobs=1, temperature=1, seed=1)
    for choice in choices:
        assert choice["text"] == "".join(choice["logprobs"]["tokens"])
        assert_offsets(choice)


def test_the_best_of_several(daemon: Daemon) -> None:
    """`best_of` makes more than it shows; usage counts all of them."""
    fields: dict[str, Any] = {"best_of": 4, "n": 2, "temperature": 1, "seed": 9}
    document = complete(daemon, **fields).json()
    assert [0, 1] == [choice["index"] for choice in document["choices"]]
    assert [None, None] == [choice["logprobs"] for choice in document["choices"]]
    assert 4 * (WORDS + 1) == document["usage"]["completion_tokens"]
    candidates = complete(daemon, n=4, temperature=1, seed=9).json()["choices"]
    assert {choice["text"] for choice in document["choices"]} <= {c["text"] for c in candidates}


def test_text_is_not_read(daemon: Daemon) -> None:
    """There is no markup here: reasoning tags are text, and blanks at the end stay."""
    [choice] = both(daemon, model="markup", max_tokens=50)
    assert "a <think>b</think> c  " == choice["text"]


def test_stops_and_constraints(daemon: Daemon) -> None:
    """Stops and guides work as in a chat."""
    [free] = both(daemon)
    stop = free["text"].split()[3]
    [cut] = both(daemon, stop=[stop])
    assert (free["text"].split(stop)[0], "stop") == (cut["text"], cut["finish_reason"])
    [guided] = both(daemon, guided_choice=["left", "right"])
    assert guided["text"] in {"left", "right"}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": []}),
        ("prompt[1]", {"prompt": ["a", ""]}),
        ("prompt", {"prompt": ["a", 1]}),
        ("prompt", {"prompt": ["x"] * 129}),
        ("prompt", {"prompt": [5_000]}),
        ("prompt[0]", {"prompt": [-1]}),
        ("best_of", {"best_of": 1, "n": 2}),
        ("best_of", {"best_of": 3, "stream": True}),
        ("suffix", {"suffix": "end"}),
        ("logprobs", {"logprobs": 21}),
        ("messages", {"messages": []}),
        ("n", {"n": 17}),
    ],
)
def test_refusals(daemon: Daemon, param: str, fields: dict[str, Any]) -> None:
    """What cannot be done is a 400 that names the field."""
    reply = post(daemon, COMPLETION_PATH, **{"model": "words", "prompt": "x", **fields})
    assert (400, param) == (reply.status, reply.json()["error"]["param"]), reply.body


def test_one_bad_prompt_refuses_all(daemon: Daemon) -> None:
    """A prompt beyond the context fails the request before any text, and frees the others."""
    fields: dict[str, Any] = {"model": "words", "prompt": ["fine", "x" * 5000], "stream": True}
    reply = post(daemon, COMPLETION_PATH, **fields)
    problem = reply.json()["error"]
    assert (400, "context_length_exceeded", "prompt") == (
        reply.status,
        problem["code"],
        problem["param"],
    )
    assert 32 == len(both(daemon, ["x"] * 32, max_tokens=1))


def test_a_failure_after_the_head_is_an_event(daemon: Daemon) -> None:
    """When the worker dies the stream ends in an error frame and not in [DONE]."""
    with Connection(daemon) as connection:
        body = b'{"model": "crash", "prompt": "x", "stream": true}'
        reply = connection.ask("POST", COMPLETION_PATH, body)
    assert 200 == reply.status
    assert b'"worker-broken"' in event_blocks(reply.body)[-1]
    assert b"[DONE]" not in reply.body
