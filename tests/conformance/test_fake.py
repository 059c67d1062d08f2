"""The fake engine that ships with LMX keeps the same contract as the real ones."""

import pytest

from lmx.engines import fake
from lmx.engines.base import LoadedEngine
from lmx.protocol.messages import Load
from lmx.protocol.values import Sampling
from tests.conformance.driving import run
from tests.conformance.engine_checks import CHECKS


def make(context_tokens: int, max_sequences: int) -> LoadedEngine:
    """A fake with replies longer than any check asks for, and prefill in chunks."""
    source = f"tokens=64&chunk=64&prefill_ms=0.01&context={context_tokens}&keep=4096"
    return fake.load(Load("fake", source, max_sequences, context_tokens))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_fake_keeps_the_contract(check: object) -> None:
    """Every part of the engine contract holds for the fake."""
    assert callable(check)
    check(make)


def test_a_scripted_text_comes_out_letter_by_letter() -> None:
    """`text` is the reply, followed by the end token."""
    engine, tokenizer, *_ = fake.load(Load("fake", "text=Good+day", 1))
    sampling = Sampling(max_tokens=50, temperature=0.0)
    results = run(engine, {1: (tokenizer.encode("x"), sampling)})[1]
    detokenizer = tokenizer.new_detokenizer()
    assert "Good day" == "".join(detokenizer.feed(result.token_id) for result in results)
    assert results[-1].finish == "stop"
