"""The loop of a chat request with skills: what the model is told, and how the answer ends."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lmx.config import SkillSettings
from lmx.errors import LmxError
from lmx.protocol.values import TokenLogprob, Usage
from tests.skill_bench import ORIGIN, USER, Said, call, open_skills

ADD = call("add", a=2, b=3)
CLOCK = {"type": "function", "function": {"name": "clock"}}


def message_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The one choice's message."""
    message: dict[str, Any] = answer["choices"][0]["message"]
    return message


def reason_of(answer: dict[str, Any]) -> tuple[str, str | None]:
    """Why it ended, and by which limit."""
    return answer["choices"][0]["finish_reason"], answer.get("skill_limit")


async def test_a_call_is_run_and_its_result_fed_back() -> None:
    """The second turn sees the call and its output; the client sees text, runs and history."""
    async with open_skills("Let me see. " + ADD, "It is 5.") as bench:
        answer = await bench.ask()
    assert [("add", {"a": 2, "b": 3}, False)] == bench.skills.called
    assert {"req_1"} == bench.skills.request_ids
    assert {"role": "assistant", "content": "Let me see.\n\nIt is 5.", "refusal": None} == (
        message_of(answer)
    )
    assert ("stop", None) == reason_of(answer)
    [run] = answer["skill_runs"]
    assert ("builtin/add@1.0.0", True, 5) == (run["skill"], run["ok"], run["output"])
    call_id = run["call_id"]
    function = {"name": "add", "arguments": '{"a":2,"b":3}'}
    made = [{"id": call_id, "type": "function", "function": function}]
    assert [
        {"role": "assistant", "content": "Let me see.", "tool_calls": made},
        {"role": "tool", "content": "5", "tool_call_id": call_id, "name": "add"},
        {"role": "assistant", "content": "It is 5."},
    ] == answer["skill_messages"]
    first, second = (bench.turns_of(number) for number in (0, 1))
    assert [USER] == first
    decoded = [{**made[0], "function": {**function, "arguments": {"a": 2, "b": 3}}}]
    assert [
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": decoded},
        {"role": "tool", "content": "5", "tool_call_id": call_id, "name": "add"},
    ] == second


async def test_usage_adds_up_and_each_turn_is_a_request() -> None:
    """All turns' tokens, cached ones too; the books count two requests of one id and caller."""
    async with open_skills(ADD, Said("5", usage=Usage(20, 2, 12))) as bench:
        answer = await bench.ask()
        assert (2, 0, 0, 0) == bench.bench.counts
        bench.bench.check(open_count=0)
    usage = answer["usage"]
    assert (30, 7, 37) == tuple(
        usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    assert {"cached_tokens": 16} == usage["prompt_tokens_details"]
    ids = bench.bench.telemetry.of("request_completed", "request_id")
    assert ["req_1", "req_1"] == ids
    assert {(ORIGIN.caller.client, ORIGIN.caller.salt)} == {(a.client, a.salt) for a in bench.asked}


async def test_an_answer_without_calls_is_as_ever() -> None:
    """No runs, no messages; nothing that only skills have."""
    async with open_skills("Hello.") as bench:
        answer = await bench.ask()
    assert "Hello." == message_of(answer)["content"]
    assert not {"skill_runs", "skill_messages", "skill_limit"} & set(answer)


async def test_a_forced_call_is_forced_once() -> None:
    """The first turn must call the one that is named; the others may call all or none."""
    choice = {"type": "function", "function": {"name": "add"}}
    async with open_skills(ADD, "5") as bench:
        await bench.ask(skills=["add", "say"], tool_choice=choice)
    shown = [[tool["function"]["name"] for tool in a.prompt.tools] for a in bench.asked]
    assert [["add"], ["add", "say"]] == shown
    assert [True, False] == [a.prompt.must_call for a in bench.asked]


async def test_no_call_is_allowed_with_none() -> None:
    """The model sees no skills, and markup is text."""
    async with open_skills(ADD) as bench:
        answer = await bench.ask(tool_choice="none")
    assert (ADD, []) == (message_of(answer)["content"], bench.skills.called)


async def test_several_calls_run_together_and_answer_in_order(autojump_clock: MockClock) -> None:
    """Three calls take as long as the longest; results stand in order of the calls."""
    calls = [call("wait", s=s) for s in (3, 1, 2)]
    async with open_skills("\n".join(calls), "Done.") as bench:
        began_s = trio.current_time()
        answer = await bench.ask(skills=["wait"])
    assert 3 == trio.current_time() - began_s
    assert [{"s": 3}, {"s": 1}, {"s": 2}] == [run["output"] for run in answer["skill_runs"]]
    results = [m["content"] for m in bench.turns_of(1) if m["role"] == "tool"]
    assert ['{"s":3}', '{"s":1}', '{"s":2}'] == results


@pytest.mark.parametrize(
    ("made", "fields", "told"),
    [
        (call("add", a=1), {}, "error: 'a' and 'b' are needed"),
        (call("fail"), {"skills": ["fail"]}, "error: nothing contains it"),
        (call("nothing"), {}, "error: there is no function 'nothing'"),
        (call("say", text="a\nb"), {"skills": ["say"]}, "a\nb"),
    ],
)
async def test_the_model_is_told_of_errors(made: str, fields: dict[str, Any], told: str) -> None:
    """Bad arguments, refusals and functions that there are not are text, and the model goes on."""
    async with open_skills(made, "Well.") as bench:
        answer = await bench.ask(**fields)
    assert told == bench.turns_of(1)[-1]["content"]
    assert ("Well.", ("stop", None)) == (message_of(answer)["content"], reason_of(answer))


async def test_client_calls_end_the_turn_after_skills_have_run() -> None:
    """The skill's result is in the history, the client's call in the message, in this order."""
    async with open_skills("\n".join([call("clock"), ADD])) as bench:
        answer = await bench.ask(tools=[CLOCK])
    assert 1 == len(bench.asked)
    assert ("tool_calls", None) == reason_of(answer)
    [client_call] = message_of(answer)["tool_calls"]
    assert "clock" == client_call["function"]["name"]
    said, result, last = answer["skill_messages"]
    assert ["add"] == [one["function"]["name"] for one in said["tool_calls"]]
    assert ("tool", "5") == (result["role"], result["content"])
    assert [client_call] == last["tool_calls"]


async def test_client_calls_alone_are_as_ever() -> None:
    """They are the answer's, and no history is told."""
    async with open_skills(call("clock", zone="utc")) as bench:
        answer = await bench.ask(tools=[CLOCK])
    assert ("tool_calls", None) == reason_of(answer)
    assert [0, "skill_messages" in answer] == [len(bench.skills.called), False]


async def test_the_steps_are_limited() -> None:
    """The last turn's calls still run, so that the history can be gone on with."""
    async with open_skills(ADD, ADD) as bench:
        answer = await bench.ask(skill_limits={"max_steps": 2})
    assert (2, ("length", "steps")) == (len(bench.skills.called), reason_of(answer))
    assert "tool" == answer["skill_messages"][-1]["role"]


async def test_the_settings_limit_the_steps_too() -> None:
    """A request may ask for less, not for more."""
    async with open_skills(ADD) as bench:
        answer = await bench.ask(SkillSettings(max_steps=1), skill_limits={"max_steps": 50})
    assert ("length", "steps") == reason_of(answer)


@pytest.mark.parametrize("fields", [{"max_tokens": 9}, {"skill_limits": {"max_tokens": 9}}])
async def test_tokens_are_those_of_all_turns(fields: dict[str, Any]) -> None:
    """The second turn gets what the first has left, and the answer says why it ends."""
    turns = [ADD, Said("And so", "length", Usage(10, 4))]
    async with open_skills(*turns) as bench:
        answer = await bench.ask(**fields)
    assert [9, 4] == [a.samplings[0].max_tokens for a in bench.asked]
    assert ("length", "tokens") == reason_of(answer)


async def test_no_turn_begins_without_tokens() -> None:
    """What is used up after the calls is told after the calls."""
    async with open_skills(ADD) as bench:
        answer = await bench.ask(max_tokens=5, min_tokens=5)
    assert ([5], ("length", "tokens")) == (
        [a.samplings[0].min_tokens for a in bench.asked],
        reason_of(answer),
    )


async def test_a_full_context_is_no_limit_of_skills() -> None:
    """The turn is cut; the request has tokens left."""
    async with open_skills(Said("So", "length")) as bench:
        answer = await bench.ask(max_tokens=50)
    assert ("length", None) == reason_of(answer)


async def test_time_ends_a_skill(autojump_clock: MockClock) -> None:
    """It is ended at the limit, the model is not asked again, and the history is whole."""
    async with open_skills(call("wait", s=100)) as bench:
        began_s = trio.current_time()
        answer = await bench.ask(skills=["wait"], skill_limits={"max_seconds": 2})
        assert 2 == trio.current_time() - began_s
    assert (0, ("length", "time")) == (bench.skills.running, reason_of(answer))
    [run] = answer["skill_runs"]
    assert (False, True) == (run["ok"], run["timed_out"])
    assert "tool" == answer["skill_messages"][-1]["role"]


async def test_time_ends_a_turn(autojump_clock: MockClock) -> None:
    """Its text so far is the answer's, its worker is told, and its tokens are counted."""
    async with open_skills(ADD, Said("The answer", None)) as bench:
        answer = await bench.ask(SkillSettings(max_loop_s=3.0))
        await trio.testing.wait_all_tasks_blocked()
        assert [2] == bench.cancelled
    assert ("The answer", ("length", "time")) == (
        message_of(answer)["content"],
        reason_of(answer),
    )
    assert 7 == answer["usage"]["completion_tokens"]


async def test_an_error_of_a_later_turn_is_the_answers() -> None:
    """A whole answer fails with it."""
    async with open_skills(ADD, Said("", "error")) as bench:
        with pytest.raises(LmxError, match="broke"):
            await bench.ask()


async def test_reasoning_is_kept_for_the_next_turn() -> None:
    """The client sees all of it beside the content; the model gets each turn's own."""
    turns = [Said(f"<think>a</think>{ADD}", reasoning="think"), Said("5", reasoning="think")]
    async with open_skills(*turns) as bench:
        answer = await bench.ask()
    assert "a" == message_of(answer)["reasoning_content"]
    assert "a" == bench.turns_of(1)[1]["reasoning_content"]


async def test_inline_reasoning_is_closed_with_its_turn() -> None:
    """A turn that only thought and called leaves no mark open."""
    turns = [
        Said(f"<think>a</think>{ADD}", reasoning="think"),
        Said("<think>b</think>5", reasoning="think"),
    ]
    async with open_skills(*turns) as bench:
        answer = await bench.ask(reasoning_format="inline")
    assert "<think>a</think><think>b</think>5" == message_of(answer)["content"]


async def test_logprobs_are_those_of_all_turns() -> None:
    """One after the other, the calls' tokens included."""
    turns = [Said(text, logprobs=[TokenLogprob(text[:1], b"x", -1.0)]) for text in (ADD, "5")]
    async with open_skills(*turns) as bench:
        answer = await bench.ask(logprobs=True)
    scores = answer["choices"][0]["logprobs"]["content"]
    assert ["<", "5"] == [score["token"] for score in scores]


async def test_a_long_output_is_cut_for_show_only() -> None:
    """The client sees its beginning and that it is cut; the model and the history have all."""
    text = "x" * 10_000
    async with open_skills(call("say", text=text), "Long.") as bench:
        answer = await bench.ask(skills=["say"])
    [run] = answer["skill_runs"]
    assert (4096, True) == (len(run["output"]), run["output_cut"])
    assert text == bench.turns_of(1)[-1]["content"] == answer["skill_messages"][1]["content"]


async def test_history_can_be_sent_again() -> None:
    """What an answer adds to its conversation is a good next request."""
    async with open_skills(ADD, "5", "6") as bench:
        first = await bench.ask()
        history = [USER, *json.loads(json.dumps(first["skill_messages"])), USER]
        second = await bench.ask(messages=history)
    assert "6" == message_of(second)["content"]
    assert 5 == len(bench.turns_of(2))
