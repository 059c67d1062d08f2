"""A completion's stream repeats each prompt once and counts the tokens of all prompts."""

from collections.abc import Sequence

from lmx.daemon.dispatch import Reply
from lmx.daemon.reply import ReplyStream
from lmx.errors import LmxError
from lmx.protocol.messages import Delta, Finished, Started
from lmx.protocol.values import FinishReason, Timings, TokenLogprob, Usage
from lmx.schema.completion_reply import CompletionStreamEncoder, Echo
from lmx.schema.reply import ReplyHead
from lmx.text.parts import AnswerPart, TextPart
from lmx.web.completions import EchoingEncoder, prompt_echo, usage_of

SCORE = TokenLogprob("P", b"P", None)
ANY_USAGE = Usage(0, 0)


class Spelled(CompletionStreamEncoder):
    """An encoder whose frames can be read at a glance."""

    def __init__(self) -> None:
        super().__init__(ReplyHead("id", 0, "m", "f"), include_usage=True)

    def echo(self, index: int, echo: Echo) -> bytes:
        return f"{index}:echo {echo.text} {len(echo.logprobs)};".encode()

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        return f"{index}:{text} {len(logprobs)};".encode()

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        return f"{index}:{reason};".encode()

    def finish(self, usage: Usage) -> bytes:
        return f"{usage.prompt_tokens}+{usage.completion_tokens};".encode()

    def error(self, error: LmxError) -> bytes:
        return f"error {error.message};".encode()


def reply_to(prompt: str | None, *ends: Usage, count: int = 1) -> Reply:
    """A reply whose first choice has told the prompt's scores and whose choices may have ended."""
    choices = [ReplyStream(number) for number in range(1, 1 + max(count, len(ends)))]
    for choice in choices:
        choice.deliver(Started(choice.sequence, 3, prompt_text=prompt))
    choices[0].deliver(Delta(1, "x", 1, [], [SCORE]))
    for choice, usage in zip(choices, ends, strict=False):
        choice.deliver(Finished(choice.sequence, "stop", usage, Timings()))
    started = choices[0].started
    assert started is not None
    return Reply("m", choices, started, tell=lambda _: None)


def make_encoder(replies: Sequence[Reply], *, has_echo: bool) -> EchoingEncoder:
    """The encoder under test over readable frames."""
    return EchoingEncoder(Spelled(), replies, has_echo=has_echo)


def test_without_echo_frames_pass_through() -> None:
    """What the inner encoder says is all that is said."""
    encoder = make_encoder([reply_to("P")], has_echo=False)
    assert b"0:a 1;" == encoder.parts(0, [TextPart("a")], [SCORE])
    assert b"0:stop;" == encoder.finish_choice(0, "stop")


def test_each_choice_is_preceded_by_its_prompt_once() -> None:
    """Choices are counted over all prompts, and each repeats the prompt it answers."""
    encoder = make_encoder([reply_to("P", count=2), reply_to("Q", count=2)], has_echo=True)
    frames = [encoder.parts(index, [TextPart("a")], []) for index in (0, 3, 1, 2, 3)]
    expected = [
        b"0:echo P 1;0:a 0;",
        b"3:echo Q 1;3:a 0;",
        b"1:echo P 1;1:a 0;",
        b"2:echo Q 1;2:a 0;",
        b"3:a 0;",
    ]
    assert expected == frames


def test_a_choice_without_text_repeats_its_prompt_at_its_end() -> None:
    """The prompt is shown though the answer is empty."""
    encoder = make_encoder([reply_to("P")], has_echo=True)
    assert b"0:echo P 1;0:stop;" == encoder.finish_choice(0, "stop")


def test_an_error_repeats_nothing() -> None:
    """An answer that failed has no prompt to show."""
    encoder = make_encoder([reply_to("P")], has_echo=True)
    assert b"error broken;" == encoder.error(LmxError("broken"))


def test_the_end_counts_all_prompts() -> None:
    """Each prompt counts once, however many choices it has; the caller's own count is ignored."""
    replies = [reply_to("P", Usage(3, 4), Usage(3, 5)), reply_to("Q", Usage(7, 1, 2))]
    encoder = make_encoder(replies, has_echo=True)
    assert b"10+10;" == encoder.finish(ANY_USAGE)
    assert Usage(10, 10, 2) == usage_of(replies)


def test_choices_that_have_not_ended_count_nothing() -> None:
    """A reply under way adds what is known of it."""
    running = [reply_to("P", Usage(3, 4), count=2), reply_to("Q")]
    assert Usage(3, 4) == usage_of(running)
    assert Usage(0, 0) == usage_of([])


def test_a_prompt_is_repeated_as_the_worker_told_it() -> None:
    """Its text comes with the start, its scores with the first choice; both may be missing."""
    assert Echo("P", [SCORE]) == prompt_echo(reply_to("P"))
    assert Echo("", [SCORE]) == prompt_echo(reply_to(None))
