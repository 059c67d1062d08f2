"""Calls that need a decision: the turn ends with them, and a new request goes on from there."""

from typing import Any

import pytest

from lmx.errors import InvalidRequest, RequestError
from lmx.protocol.messages import Generate
from tests.skill_bench import USER, call, open_skills

DANGER = call("danger", what="x")
BOTH = {"skills": ["danger", "add"]}


def told(answer: dict[str, Any]) -> tuple[str, list[str]]:
    """Why an answer ended, and the functions that wait."""
    [choice] = answer["choices"]
    calls = choice["message"].get("tool_calls", [])
    return choice["finish_reason"], [one["function"]["name"] for one in calls]


async def waiting(bench: Any, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """The conversation after an answer that waits for a decision, and the call's id."""
    answer = await bench.ask(**{**BOTH, **fields})
    [pending] = answer["choices"][0]["message"]["tool_calls"]
    return [USER, *answer["skill_messages"]], pending["id"]


async def test_a_call_that_needs_a_decision_ends_the_turn() -> None:
    """It did not run; it stands in the message, in the runs and at the end of the history."""
    async with open_skills(DANGER) as bench:
        answer = await bench.ask(**BOTH)
    assert ("requires_approval", ["danger"]) == told(answer)
    assert [("danger", {"what": "x"}, False)] == bench.skills.called
    [run] = answer["skill_runs"]
    assert (False, True) == (run["ok"], run["requires_approval"])
    [last] = answer["skill_messages"]
    assert answer["choices"][0]["message"]["tool_calls"] == last["tool_calls"]


async def test_others_of_the_turn_run() -> None:
    """What needs no decision has its result in the history, before the message that waits."""
    async with open_skills("\n".join([DANGER, call("add", a=1, b=1)])) as bench:
        answer = await bench.ask(**BOTH)
    assert ("requires_approval", ["danger"]) == told(answer)
    roles = [message["role"] for message in answer["skill_messages"]]
    assert ["assistant", "tool", "assistant"] == roles


@pytest.mark.parametrize("how", ["history", "message"])
async def test_an_approved_call_runs_and_the_answer_goes_on(how: str) -> None:
    """From the messages that the answer gave, or from its message alone."""
    async with open_skills(f"Shall I? {DANGER}", "Done.") as bench:
        first = await bench.ask(**BOTH)
        message = first["choices"][0]["message"]
        history = first["skill_messages"] if how == "history" else [message]
        decided = {message["tool_calls"][0]["id"]: True}
        answer = await bench.ask(
            **BOTH, messages=[USER, *history], skill_approvals=decided, tool_choice="required"
        )
    assert ("danger", {"what": "x"}, True) == bench.skills.called[-1]
    assert ("stop", []) == told(answer)
    [asked] = bench.asked[1:]
    assert isinstance(asked, Generate)
    assert ["user", "assistant", "tool"] == [turn["role"] for turn in bench.turns_of(1)]
    assert '{"did":"danger"}' == bench.turns_of(1)[-1]["content"]
    assert not asked.prompt.must_call  # the demand was met by the answer that is gone on with
    assert ["tool", "assistant"] == [m["role"] for m in answer["skill_messages"]]


async def test_a_refused_call_is_told_to_the_model() -> None:
    """It does not run; the model reads that the user refused."""
    async with open_skills(DANGER, "Then not.") as bench:
        history, call_id = await waiting(bench)
        answer = await bench.ask(**BOTH, messages=history, skill_approvals={call_id: False})
    assert 1 == len(bench.skills.called)
    assert "error: the user has refused this call" == bench.turns_of(1)[-1]["content"]
    [run] = answer["skill_runs"]
    assert (False, True) == (run["ok"], run["denied"])


async def test_an_undecided_call_is_asked_for_again() -> None:
    """What was decided runs; the other one keeps its id, and no turn begins without it."""
    async with open_skills("\n".join([DANGER, DANGER]), "Done.") as bench:
        first = await bench.ask(**BOTH)
        one, other = (made["id"] for made in first["choices"][0]["message"]["tool_calls"])
        history = [USER, *first["skill_messages"]]
        second = await bench.ask(**BOTH, messages=history, skill_approvals={one: True})
        assert ("requires_approval", ["danger"]) == told(second)
        assert other == second["choices"][0]["message"]["tool_calls"][0]["id"]
        assert 1 == len(bench.asked)
        history += second["skill_messages"]
        third = await bench.ask(**BOTH, messages=history, skill_approvals={other: True})
    assert ("stop", []) == told(third)
    assert ["user", "assistant", "tool", "tool"] == [m["role"] for m in bench.turns_of(1)]


async def test_client_calls_wait_beside() -> None:
    """The client answers its own call, decides on the skill's, and the answer goes on."""
    clock = [{"type": "function", "function": {"name": "clock"}}]
    async with open_skills("\n".join([DANGER, call("clock")]), "Done.") as bench:
        first = await bench.ask(**BOTH, tools=clock)
        assert ("requires_approval", ["danger", "clock"]) == told(first)
        mine, theirs = (made["id"] for made in first["choices"][0]["message"]["tool_calls"])
        result = {"role": "tool", "tool_call_id": theirs, "content": "noon"}
        history = [USER, *first["skill_messages"], result]
        second = await bench.ask(
            **BOTH, tools=clock, messages=history, skill_approvals={mine: True}
        )
    assert ("stop", []) == told(second)


@pytest.mark.parametrize("decided", [{"call_x": True}, {"call_x": False}])
async def test_a_decision_on_an_unknown_call_is_refused(decided: dict[str, bool]) -> None:
    """Nothing starts."""
    async with open_skills() as bench:
        with pytest.raises(InvalidRequest) as caught:
            await bench.ask(**BOTH, skill_approvals=decided)
    assert "skill_approvals" == caught.value.param


async def test_a_decision_on_an_answered_call_is_refused() -> None:
    """It has run."""
    async with open_skills(DANGER) as bench:
        history, call_id = await waiting(bench)
        result = {"role": "tool", "tool_call_id": call_id, "content": "ran"}
        for after in ([result], [USER]):
            with pytest.raises(InvalidRequest):
                await bench.ask(
                    **BOTH, messages=[*history, *after], skill_approvals={call_id: True}
                )


async def test_a_decision_needs_the_skill() -> None:
    """A call of a function that this request does not name as a skill is not run."""
    async with open_skills(DANGER) as bench:
        history, call_id = await waiting(bench)
        with pytest.raises(RequestError) as caught:
            await bench.ask(skills=["add"], messages=history, skill_approvals={call_id: True})
    assert "skill_approvals" == caught.value.param
