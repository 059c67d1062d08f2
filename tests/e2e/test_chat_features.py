"""Every chat parameter on the real demo model, through the official `openai` client.

The model is small and its words make little sense, so what is checked is protocol and equality:
streamed as whole, alone as in a batch, valid where validity was demanded.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from tests.daemon_process import Daemon, spawn_daemon

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

PROMPT = "Name three colours."
TOKENS = 10
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "mood": {"enum": ["glad", "sad"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "mood", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time in a zone",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["utc", "cet"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def daemon(demo_home: Path) -> Iterator[Daemon]:
    """A daemon with the demo model."""
    with spawn_daemon(demo_home) as running:
        running.wait_ready_blocking(limit_s=120)
        yield running


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The official client, as a user would make it."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def ask(client: openai.OpenAI) -> Callable[..., ChatCompletion]:
    """Ask for a whole answer, greedy and short unless told otherwise."""

    def send(prompt: str = PROMPT, **fields: Any) -> ChatCompletion:
        given = {"max_tokens": TOKENS, "temperature": 0, **fields}
        messages = given.pop("messages", [{"role": "user", "content": prompt}])
        answer: ChatCompletion = client.chat.completions.create(
            model="demo", messages=messages, **given
        )
        return answer

    return send


@pytest.fixture(scope="module")
def stream(client: openai.OpenAI) -> Callable[..., list[Choice]]:
    """Ask for a streamed answer, and let the official client put it together."""

    def send(prompt: str = PROMPT, **fields: Any) -> list[Choice]:
        given = {"max_tokens": TOKENS, "temperature": 0, **fields}
        messages: Any = [{"role": "user", "content": prompt}]
        manager: Any = client.chat.completions.stream(model="demo", messages=messages, **given)
        with manager as events:
            try:
                answer: ChatCompletion = events.get_final_completion()
            except openai.LengthFinishReasonError as cut:
                answer = cut.completion
        return answer.choices

    return send


Ask = Callable[..., ChatCompletion]
Stream = Callable[..., list[Choice]]


def text_of(answer: ChatCompletion) -> str:
    """The text of the first choice."""
    return answer.choices[0].message.content or ""


def said(choices: list[Choice]) -> list[tuple[Any, ...]]:
    """What choices say: text, calls, tokens with their scores, and why they ended."""
    return [
        (
            choice.message.content or "",
            [called(call.to_dict()) for call in choice.message.tool_calls or []],
            [] if choice.logprobs is None else [
                (entry.token, round(entry.logprob, 4), [top.token for top in entry.top_logprobs])
                for entry in choice.logprobs.content or []
            ],
            choice.finish_reason,
        )
        for choice in choices
    ]  # fmt: skip


def called(call: dict[str, Any]) -> tuple[str, str]:
    """Name and arguments of a call."""
    return call["function"]["name"], call["function"]["arguments"]


def test_three_choices(ask: Ask, stream: Stream) -> None:
    """Three seeded answers differ, and are the same streamed."""
    fields: dict[str, Any] = {"n": 3, "seed": 5, "temperature": 1.0, "top_p": 0.95}
    answer = ask(**fields)
    assert [0, 1, 2] == [choice.index for choice in answer.choices]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert said(answer.choices) == said(stream(**fields))


def test_logprobs_streamed_as_whole(ask: Ask, stream: Stream) -> None:
    """Every token's score and alternatives, whichever way they travel; greedy leads them."""
    whole = ask(logprobs=True, top_logprobs=3)
    assert said(whole.choices) == said(stream(logprobs=True, top_logprobs=3))
    scores = whole.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert whole.usage is not None
    assert len(scores.content) in {whole.usage.completion_tokens, TOKENS}
    assert [entry.token for entry in scores.content] == [
        entry.top_logprobs[0].token for entry in scores.content
    ]
    spelled = b"".join(bytes(entry.bytes or []) for entry in scores.content)
    assert text_of(whole) == spelled.decode().strip()


def test_seeds_hold_in_a_batch_of_eight(ask: Ask) -> None:
    """Each of eight seeded answers is what its seed gives alone; all parameters are in play."""

    def draw(seed: int) -> str:
        answer = ask(
            seed=seed,
            temperature=1.2,
            top_p=0.9,
            frequency_penalty=0.5,
            presence_penalty=0.3,
            extra_body={"top_k": 40, "min_p": 0.02, "repetition_penalty": 1.1},
        )
        return text_of(answer)

    alone = [draw(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(1, 9)))
    assert alone == together[:2]
    assert len(set(together)) > 4


def test_a_bias_decides(daemon: Daemon, ask: Ask) -> None:
    """The greedy token is not said once it is forbidden, and any token is once it is pushed."""
    first = text_of(ask(max_tokens=1))
    with httpx2.Client(base_url=daemon.url, timeout=60) as http:
        ids = [
            http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
            for text in (first, "sea")
        ]
    said_id, sea_id = (str(made["tokens"][0]) for made in ids)
    assert first != text_of(ask(max_tokens=1, logit_bias={said_id: -100}))
    assert "sea".startswith(text_of(ask(max_tokens=1, logit_bias={sea_id: 100})))


def test_a_stop_ends_the_text(ask: Ask, stream: Stream) -> None:
    """The stop is cut out of the model's own answer, so it is met for certain."""
    whole = text_of(ask())
    stop = whole[len(whole) // 2 :][:4]
    choices = ask(stop=[stop]).choices
    assert (whole.split(stop)[0].rstrip(), "stop") == (
        choices[0].message.content,
        choices[0].finish_reason,
    )
    assert said(choices) == said(stream(stop=[stop]))


def test_a_schema_holds_beside_free_neighbours(ask: Ask) -> None:
    """A constrained answer parses and fits; three free ones beside it are what they were."""
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    prompts = ["Say hello.", "What is a clock?", PROMPT]
    alone = [text_of(ask(prompt)) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        bound = pool.submit(ask, "Describe a person.", response_format=shape, max_tokens=60)
        free = list(pool.map(lambda prompt: text_of(ask(prompt)), prompts))
        choice = bound.result().choices[0]
    assert alone == free
    person = json.loads(choice.message.content or "")
    assert ("stop", set(PERSON["required"])) == (choice.finish_reason, set(person))
    assert person["mood"] in {"glad", "sad"}
    assert len(person["name"]) <= 8
    assert 0 <= person["age"] <= 99


def test_guides_hold(ask: Ask) -> None:
    """A choice and an expression leave the model nothing else to say."""
    assert text_of(ask(extra_body={"guided_choice": ["red", "green"]})) in {"red", "green"}
    dated = text_of(ask(extra_body={"guided_regex": "[0-9]{2}-[0-9]{2}"}))
    assert (5, "-") == (len(dated), dated[2])


@pytest.mark.parametrize("choice", ["required", "named"])
def test_enforced_calls_fit_their_schemas(ask: Ask, stream: Stream, choice: str) -> None:
    """A model never trained for it calls a tool all the same, streamed as whole."""
    named: Any = {"type": "function", "function": {"name": "clock"}}
    fields: dict[str, Any] = {
        "tools": [WEATHER, CLOCK],
        "tool_choice": named if choice == "named" else choice,
        "parallel_tool_calls": False,
        "max_tokens": 60,
    }
    whole = ask("What is the weather in Oslo?", **fields).choices
    [(content, [(name, arguments)], _, reason)] = said(whole)
    assert ("", "tool_calls") == (content, reason)
    assert choice == "required" or name == "clock"
    assert fits(name, json.loads(arguments))
    assert said(whole) == said(stream("What is the weather in Oslo?", **fields))


def fits(name: str, arguments: dict[str, Any]) -> bool:
    """Whether a call's arguments fit the schema of its tool."""
    tool = {"get_weather": WEATHER, "clock": CLOCK}[name]
    properties = tool["function"]["parameters"]["properties"]
    return set(properties) == set(arguments) and all(
        value in properties[key]["enum"] for key, value in arguments.items()
    )


def test_results_are_fed_back(ask: Ask) -> None:
    """The official client's own message objects make the next turn."""
    question = {"role": "user", "content": "What time is it?"}
    named: Any = {"type": "function", "function": {"name": "clock"}}
    first = ask(messages=[question], tools=[CLOCK], tool_choice=named, max_tokens=60)
    message = first.choices[0].message
    assert message.tool_calls is not None
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12:00"}
    answer = ask(messages=[question, message, result], tools=[CLOCK])
    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}
    assert answer.usage is not None
    assert first.usage is not None
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_completion_with_echo_and_logprobs(client: openai.OpenAI) -> None:
    """The prompt and its scores stand before the text, streamed as whole."""

    def complete(**fields: Any) -> Any:
        return client.completions.create(
            model="demo", prompt="The sea is", max_tokens=6, temperature=0, **fields
        )

    whole = complete(echo=True, logprobs=2)
    [choice] = whole.choices
    plain = complete().choices[0].text
    assert "The sea is" + plain == choice.text
    scores = choice.logprobs
    assert scores is not None
    assert choice.text == "".join(scores.tokens or [])
    assert scores.token_logprobs is not None
    assert [None] == scores.token_logprobs[:1]
    assert all(value <= 0 for value in scores.token_logprobs[1:])
    pieces = [c for chunk in complete(echo=True, logprobs=2, stream=True) for c in chunk.choices]
    assert choice.text == "".join(piece.text for piece in pieces)
    tokens = [token for p in pieces if p.logprobs for token in p.logprobs.tokens]
    assert scores.tokens == tokens


@pytest.mark.parametrize("text", ["The sea is wide.", "naïve ☕ 日本語 🎉", " \n\tindented"])
def test_tokens_round_trip(daemon: Daemon, text: str) -> None:
    """A real vocabulary gives back the text it was given, and counts as a chat counts."""
    with httpx2.Client(base_url=daemon.url, timeout=60) as http:
        made = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
        assert len(made["tokens"]) == made["count"] > 0
        back = http.post("/detokenize", json={"tokens": made["tokens"]}).json()
        assert {"prompt": text} == back


def test_a_chat_counts_what_tokenize_counts(daemon: Daemon, ask: Ask) -> None:
    """The tokens of a conversation are those of its template, and those that are billed."""
    messages = [{"role": "user", "content": PROMPT}]
    with httpx2.Client(base_url=daemon.url, timeout=60) as http:
        counted = http.post("/tokenize", json={"messages": messages}).json()["count"]
        text = http.post("/apply-template", json={"messages": messages}).json()["prompt"]
    usage = ask(max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == counted
    assert PROMPT in text
