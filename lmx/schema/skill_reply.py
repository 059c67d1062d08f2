"""The whole answer to a request with skills: the fold of what a stream would have sent."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Struct

from lmx.protocol.values import TokenLogprob, Usage
from lmx.schema.chat_documents import ChatChoice, ChatCompletion, Delta, LoopEnd, encode_logprobs
from lmx.schema.chat_reply import ChoiceShaper, ReasoningMarks, call_delta, fold_deltas
from lmx.schema.reply import ReplyHead, encode_usage
from lmx.schema.skill_documents import SkillRun
from lmx.text.parts import AnswerPart


class WholeLoop(Struct, frozen=True):
    """A finished answer.

    Attributes:
        turns: The parts of each turn, in order.
        logprobs: Of all turns' tokens; `None` if they were not asked for.
        runs: Calls of skills, and what came of them.
        end: How it ended.
    """

    turns: Sequence[Sequence[AnswerPart]]
    logprobs: list[TokenLogprob] | None
    runs: Sequence[SkillRun]
    end: LoopEnd


def encode_whole_loop(
    head: ReplyHead, told: WholeLoop, usage: Usage, *, marks: ReasoningMarks | None
) -> bytes:
    """One document.

    Args:
        head: Of the answer.
        told: All of it.
        usage: Of all turns.
        marks: Put around reasoning inside the content; `None` keeps it beside.
    """
    shaper = ChoiceShaper(head.id, 0, marks)
    deltas: list[Delta] = []
    for parts in told.turns:
        deltas += [shaper.shape(part) for part in parts]
        deltas.append(shaper.end_turn())
    deltas += [call_delta(index, call) for index, call in enumerate(told.end.calls)]
    logprobs = None if told.logprobs is None else encode_logprobs(told.logprobs)
    document = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[ChatChoice(0, fold_deltas(deltas), logprobs, told.end.reason)],
        usage=encode_usage(usage),
        skill_runs=list(told.runs) or UNSET,
        **msgspec.structs.asdict(told.end.fields),
    )
    return msgspec.json.encode(document)
