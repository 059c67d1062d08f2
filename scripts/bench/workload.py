"""What benchmarks ask of chat models: short and long prompts, agent sessions, mixed arrivals.

Everything is made from a seed, so that all sides of a run get the same and no cache knows what it
was not told in that run. Knows no HTTP.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]

SUBJECTS = ("rivers", "bread", "clocks", "trains", "gardens", "stars", "bridges", "tea")
# Each word is one token in SmolLM2's vocabulary, which the random models share.
TEXT = (
    "the river runs past old stone houses and every morning a small boat brings bread tea paper "
    "and news from the town where people work in gardens mills schools and quiet shops until "
    "evening falls over roads fields bridges and the long wall behind which horses sleep"
)
WORDS = TEXT.split()
# What the chat template, its default system message and the prompt's own frame come to.
TEMPLATE_TOKENS = 40
TOOLS = ("read_file", "list_folder", "search_text", "run_command", "write_file", "fetch_page")


def prompts(count: int, *, run: int | str = 0) -> list[str]:
    """Distinct prompts of about the same length, new in every run, so that no cache knows them."""
    return [
        f"{run}.{i}: write a long and detailed story about {SUBJECTS[i % len(SUBJECTS)]} and "
        "the people who care for them. Begin at once and do not stop early."
        for i in range(count)
    ]


def words(count: int, *, seed: str) -> str:
    """So many words; other ones from the first on for another seed."""
    chooser = random.Random(seed)  # noqa: S311  # any text will do
    return " ".join(chooser.choices(WORDS, k=count))


def long_prompt(tokens: int, *, seed: str) -> str:
    """A prompt that comes to about so many tokens with the template around it."""
    body = words(max(1, tokens - TEMPLATE_TOKENS), seed=seed)
    return f"{body}. What is this text about?"


def user(text: str) -> Messages:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def system_prompt(tokens: int, *, seed: str) -> str:
    """What an agent's requests all begin with: its role, tools and rules.

    Tools are told in the text and not in the request's `tools`, because not every template of a
    small model knows those and every side must get the same prompt.
    """
    share = tokens // (len(TOOLS) + 1)
    tools = [f"{name}: {words(share, seed=f'{seed} {name}')}." for name in TOOLS]
    return f"You use tools. {words(share, seed=seed)}.\n" + "\n".join(tools)


@dataclass(frozen=True)
class Session:
    """An agent at work: every turn sends all that was said before and one more tool result.

    Attributes:
        seed: Whose session it is.
        system_tokens: About how long its system prompt is.
        result_tokens: About how long a tool's result is.
        turns: How many requests it makes.
    """

    seed: str
    system_tokens: int
    result_tokens: int
    turns: int

    def opening(self) -> Messages:
        """What stands before the first turn."""
        text = system_prompt(self.system_tokens, seed=self.seed)
        return [{"role": "system", "content": text}]

    def result(self, turn: int) -> dict[str, Any]:
        """What comes in before a turn's answer: the task, then results of tools."""
        text = words(self.result_tokens, seed=f"{self.seed} turn {turn}")
        tool = TOOLS[turn % len(TOOLS)]
        return {"role": "user", "content": f"Result {turn} of {tool}: {text}. What is next?"}

    def scripted(self, turn: int) -> Messages:
        """All of a turn's messages, the answers made up, for a load that cannot wait for them."""
        messages = self.opening()
        for past in range(turn):
            answer = f"Use {TOOLS[past % len(TOOLS)]} on {words(6, seed=f'{self.seed} {past}')}."
            messages += [self.result(past), {"role": "assistant", "content": answer}]
        return [*messages, self.result(turn)]


@dataclass(frozen=True)
class Arrival:
    """A request of a mixed load.

    Attributes:
        kind: ``chat``, ``long`` or ``agent``.
        gap: Time since the one before, in units of the mean time between two.
        messages: The conversation.
        max_tokens: Longest answer.
    """

    kind: str
    gap: float
    messages: Messages
    max_tokens: int


# Shares of requests, by kind.
MIX = {"chat": 0.6, "long": 0.15, "agent": 0.25}
ANSWER_TOKENS = {"chat": 32, "long": 16, "agent": 24}
CHAT_TOKENS = (20, 80)
LONG_TOKENS = (1000, 2000)
AGENTS, AGENT_TURNS = 4, 8


def mixed_load(count: int, *, seed: int, scale: float = 1.0) -> list[Arrival]:
    """Poisson arrivals of short chats, long prompts and the turns of a few agents.

    Kinds come in the shares of the mix, in an order by chance, so that a load of another seed is
    as much work.

    Args:
        count: How many requests.
        seed: Other texts, lengths and times for another.
        scale: Factor on all lengths of prompts.
    """
    chooser = random.Random(seed)  # noqa: S311  # any load will do
    agents = _agent_turns(seed, scale)
    arrivals = []
    kinds = _kinds(count)
    chooser.shuffle(kinds)
    for number, kind in enumerate(kinds):
        gap = chooser.expovariate(1.0)
        name = f"{seed}.{number}"
        if kind == "agent":
            messages = next(agents)
        else:
            least, most = CHAT_TOKENS if kind == "chat" else LONG_TOKENS
            tokens = int(chooser.randint(least, most) * scale)
            messages = user(f"{name}: {long_prompt(tokens, seed=name)}")
        arrivals.append(Arrival(kind, gap, messages, ANSWER_TOKENS[kind]))
    return arrivals


def _kinds(count: int) -> list[str]:
    """So many kinds in the shares of the mix; what rounding leaves over are chats."""
    kinds = [kind for kind, share in MIX.items() for _ in range(int(count * share + 1e-9))]
    return kinds + ["chat"] * (count - len(kinds))


def _agent_turns(seed: int, scale: float) -> Iterator[Messages]:
    """Turns of several sessions at a time, then of others, without end."""
    generation = 0
    while True:
        sessions = [
            Session(f"{seed} agent {generation}.{n}", int(600 * scale), int(80 * scale), 0)
            for n in range(AGENTS)
        ]
        for turn in range(AGENT_TURNS):
            for session in sessions:
                yield session.scripted(turn)
        generation += 1


def copied_share(prompt: str, answer: str, *, size: int = 4) -> float:
    """The share of an answer's words that a run of `size` words ends which was there before.

    What a lookup of the last words could have foretold at best; 0 for an empty answer.
    """
    said, found, total = prompt.split(), 0, 0
    seen = {tuple(said[at : at + size]) for at in range(len(said) - size + 1)}
    for word in answer.split():
        said.append(word)
        last = tuple(said[-size:])
        found += last in seen
        total += 1
        seen.add(last)
    return found / total if total else 0.0
