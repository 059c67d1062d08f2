"""A request that was there at two deaths is refused for a while; everybody else passes."""

import time

import pytest

from lmx.daemon.poison import PoisonList, fingerprint
from lmx.errors import PoisonRequest
from lmx.protocol.messages import ChatPrompt, Generate, Prompt, TextPrompt, TokenPrompt
from lmx.protocol.values import Grammar, Sampling

BAD, GOOD = b"bad", b"good"


def generate(prompt: Prompt, *, sequence: int = 1, sampling: Sampling | None = None) -> Generate:
    """A request with one choice."""
    return Generate(sequence, prompt, [sampling or Sampling(16)], [])


def is_refused(poison: PoisonList, what: bytes, now_s: float) -> bool:
    """Whether the list refuses it then."""
    try:
        poison.check(what, now_s)
    except PoisonRequest:
        return True
    return False


def test_the_second_death_is_one_too_many() -> None:
    """One death may be chance and passes; the second refuses."""
    poison = PoisonList()
    assert not is_refused(poison, BAD, 0.0)
    poison.blame([BAD], 0.0)
    assert not is_refused(poison, BAD, 1.0)
    poison.blame([BAD], 2.0)
    assert is_refused(poison, BAD, 3.0)
    assert not is_refused(poison, GOOD, 3.0)


def test_the_refusal_says_how_long() -> None:
    """The person reads how often it happened and for how long it is refused."""
    poison = PoisonList(ttl_s=600.0)
    poison.blame([BAD], 0.0)
    poison.blame([BAD], 10.0)
    with pytest.raises(PoisonRequest) as early:
        poison.check(BAD, 40.0)
    assert (
        "this request was running each of the 2 times that the model's process died; "
        "it is refused for another 10 min"
    ) == early.value.message
    assert 570.0 == early.value.retry_after_s
    with pytest.raises(PoisonRequest, match=r"for another 5 s$"):
        poison.check(BAD, 605.5)


def test_all_are_forgotten_in_time() -> None:
    """The time runs from the last death; after it the count begins at zero."""
    poison = PoisonList(ttl_s=600.0)
    poison.blame([BAD], 0.0)
    poison.blame([BAD], 500.0)
    assert is_refused(poison, BAD, 1099.0)
    assert not is_refused(poison, BAD, 1100.0)
    assert 0 == len(poison)
    poison.blame([BAD], 1200.0)
    assert not is_refused(poison, BAD, 1200.0)


def test_deaths_far_apart_do_not_add_up() -> None:
    """A death that was forgotten does not count with the next one."""
    poison = PoisonList(ttl_s=600.0)
    poison.blame([BAD], 0.0)
    poison.blame([BAD], 600.0)
    assert not is_refused(poison, BAD, 600.0)


def test_an_answer_clears() -> None:
    """A bystander that is answered between two deaths is not refused after the second."""
    poison = PoisonList()
    poison.blame([BAD, GOOD], 0.0)
    poison.absolve(GOOD)
    poison.absolve(b"unknown")
    poison.blame([BAD, GOOD], 1.0)
    assert is_refused(poison, BAD, 2.0)
    assert not is_refused(poison, GOOD, 2.0)


def test_copies_count_once_per_death() -> None:
    """Clients that send the same request at the same time are at one death, not at several."""
    poison = PoisonList()
    poison.blame([GOOD, GOOD, GOOD], 0.0)
    assert not is_refused(poison, GOOD, 0.0)
    assert 1 == len(poison)


def test_copies_that_report_one_by_one_count_once_per_death() -> None:
    """Each handler tells of the same death in a call of its own; the next death counts again."""
    poison = PoisonList()
    for now_s in (0.0, 0.1, 5.0):
        poison.blame([GOOD], now_s, death=77)
    assert not is_refused(poison, GOOD, 5.0)
    poison.blame([GOOD], 6.0, death=78)
    assert is_refused(poison, GOOD, 6.0)


def test_the_limit_can_be_another() -> None:
    """With a limit of 1 the first death refuses."""
    poison = PoisonList(limit=1)
    poison.blame([BAD], 0.0)
    assert is_refused(poison, BAD, 0.0)


def test_the_list_is_bounded() -> None:
    """Beyond its size the least recently blamed are forgotten, not the newest."""
    poison = PoisonList(limit=1, max_entries=3)
    poison.blame([b"1", b"2", b"3"], 0.0)
    poison.blame([b"1"], 1.0)
    poison.blame([b"4"], 2.0)
    assert 3 == len(poison)
    refused = [what for what in (b"1", b"2", b"3", b"4") if is_refused(poison, what, 3.0)]
    assert [b"1", b"3", b"4"] == refused


def test_the_sequence_number_is_no_part_of_a_request() -> None:
    """A retry has another number and the same fingerprint."""
    first, again = (fingerprint(generate(TextPrompt("hi"), sequence=i)) for i in (1, 2))
    assert first == again
    assert 16 == len(first)


def test_the_order_of_keys_does_not_matter() -> None:
    """Dictionaries that are equal make equal fingerprints, at every depth."""

    def order(keys: tuple[str, ...], tokens: tuple[int, ...]) -> bytes:
        tool = {"function": {key: {"type": key} for key in keys}}
        prompt = ChatPrompt(
            messages=[{key: key for key in keys}],
            tools=[dict.fromkeys(keys, tool)],
            template_kwargs={key: [dict.fromkeys(keys, 1)] for key in keys},
        )
        sampling = Sampling(16, logit_bias=dict.fromkeys(tokens, 1.5))
        return fingerprint(generate(prompt, sampling=sampling))

    assert order(("a", "b", "c"), (7, 300, 5)) == order(("c", "a", "b"), (300, 5, 7))


def test_everything_else_matters() -> None:
    """Requests that differ in any other field have fingerprints of their own."""
    hi = TextPrompt("hi")
    requests = [
        generate(hi),
        generate(TextPrompt("ho")),
        generate(TextPrompt("hi", add_beginning=False)),
        generate(ChatPrompt([{"role": "user", "content": "hi"}])),
        generate(ChatPrompt([{"role": "user", "content": "hi"}], must_call=True)),
        generate(TokenPrompt([1, 23])),
        generate(TokenPrompt([12, 3])),
        generate(hi, sampling=Sampling(17)),
        generate(hi, sampling=Sampling(16, seed=1)),
        generate(hi, sampling=Sampling(16, logit_bias={1: 2.0})),
        generate(hi, sampling=Sampling(16, logit_bias={2: 1.0})),
        Generate(1, hi, [Sampling(16), Sampling(16)], []),
        Generate(1, hi, [Sampling(16)], ["stop"]),
        Generate(1, hi, [Sampling(16)], [], grammar=Grammar("regex", "a", "p")),
        Generate(1, hi, [Sampling(16)], [], thinking_budget=5),
        Generate(1, hi, [Sampling(16)], [], wants_prompt=True),
    ]
    assert len(requests) == len({fingerprint(request) for request in requests})


def test_a_large_prompt_is_hashed_fast() -> None:
    """Sixteen megabytes take tens of milliseconds; the bound leaves room for a busy machine."""
    large = generate(ChatPrompt([{"role": "user", "content": "x" * 16_000_000}]))
    started_at = time.perf_counter()
    fingerprint(large)
    assert time.perf_counter() - started_at < 1.0
