"""Whose turn it is: which requests get slots first, and which prompts are computed first. Pure.

Theory of operation. Clients share the device by the tokens they are served, as in fair queueing. A
client's account counts what it was served; a request is due when its account would stand at what it
stands at now plus what this request and those before it still lack. Whoever is due first goes
first. So a short prompt passes a long one, a client with many requests does not push out one with
few, two long prompts of two clients go one after the other rather than by turns, and nobody is done
later than with an equal share of the device by more than its own length. Requests of one client
pass each other by the same rule, counted from the account as it stood when each came.

The common time is what an equal share would have been served so far. A client that asks anew starts
there, so that nobody saves up turns while asking for nothing. While nobody waits, nothing is owed.

Priorities stand above all this: of several levels the most urgent one goes first. A request that
waits becomes more urgent, as far as the most urgent one beside it, and then its client's account
decides. It knows tokens and seconds, neither engines nor slots.

Source: virtual time and lifting of newcomers as in Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024; the order by what is due first as in weighted fair queueing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# A request becomes more urgent by one level in this time: normal requests pass those of a batch,
# ten levels below, for half a minute.
LEVEL_S = 3.0
# A token of an answer costs a client this many tokens of prompts. Source: the paper's weights.
ANSWER_WEIGHT = 2.0
# Accounts of clients that ask for nothing are looked through when there are this many.
LEAST_SWEEP = 64


@dataclass(slots=True, eq=False)
class Turn:
    """One request's place in the order, from its coming to its end.

    Attributes:
        client: Whose account it is on.
        priority: Lower goes first.
        since_s: When it came.
        number: Counts requests in the order of their coming.
        prompt_tokens: Of its prompt, all of them.
        left_tokens: Of its prompt, not computed yet.
        tag: Where its client's account would have stood with this prompt computed, had nothing been
            before it. It parts it from others of its client alone.
        is_behind: Its prompt is not computed.
        is_held: It was first and did not fit: of its level it stays first until it does, or many
            small requests could pass a large one for ever.
    """

    client: str
    priority: int
    since_s: float
    number: int
    prompt_tokens: int
    left_tokens: int
    tag: float
    is_behind: bool = True
    is_held: bool = False


@dataclass(slots=True, eq=False)
class _Account:
    """One client.

    Attributes:
        served: In tokens of prompts, on the common time.
        open_count: Its requests that have not ended.
        behind_count: Of these, those whose prompts are not computed.
    """

    served: float = 0.0
    open_count: int = 0
    behind_count: int = 0


class Turns:
    """The accounts of all clients, and the order that follows from them."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._time = 0.0  # what an equal share would have been served
        self._active_count = 0  # clients with requests
        self._behind_count = 0
        self._entered_count = 0
        self._sweep_at = LEAST_SWEEP

    def enter(self, client: str, *, priority: int, tokens: int, now_s: float) -> Turn:
        """Take a request.

        Args:
            client: Whose it is.
            priority: Lower goes first.
            tokens: Of its prompt.
            now_s: Seconds, on the clock of `order`.
        """
        if not self._behind_count:
            self._forget()
        account = self._accounts.setdefault(client, _Account())
        if not account.behind_count:
            account.served = max(account.served, self._time)
        self._active_count += account.open_count == 0
        account.open_count += 1
        account.behind_count += 1
        self._behind_count += 1
        self._entered_count += 1
        number = self._entered_count
        return Turn(client, priority, now_s, number, tokens, tokens, account.served + tokens)

    def note_left(self, turn: Turn, left_tokens: int, *, computed: int) -> None:
        """So much of a prompt is left.

        Args:
            turn: Whose prompt.
            left_tokens: To be computed.
            computed: Tokens of it that were computed since the last time, which its client pays
                for. What was found in a cache costs nothing.
        """
        if left_tokens and not turn.is_behind:
            self._fall_back(turn, left_tokens)
        self._charge(turn, computed)
        found = turn.left_tokens - left_tokens - computed
        turn.tag -= max(0, found)
        turn.left_tokens = left_tokens

    def charge_answer(self, turn: Turn, tokens: int) -> None:
        """A request was given tokens of its answer."""
        self._charge(turn, ANSWER_WEIGHT * tokens)

    def catch_up(self, turn: Turn) -> None:
        """A request's prompt is computed; it holds nobody up any more."""
        if turn.is_behind:
            turn.left_tokens = 0
            turn.is_behind = False
            self._accounts[turn.client].behind_count -= 1
            self._behind_count -= 1

    def leave(self, turn: Turn) -> None:
        """A request ended. Once for each."""
        account = self._accounts[turn.client]
        if turn.is_behind:
            turn.is_behind = False
            account.behind_count -= 1
            self._behind_count -= 1
        account.open_count -= 1
        self._active_count -= account.open_count == 0
        if len(self._accounts) >= self._sweep_at:
            self._sweep()

    def order(
        self, turns: Iterable[Turn], now_s: float, *, ahead: Iterable[Turn] = ()
    ) -> list[Turn]:
        """Requests in the order in which they should go on.

        Args:
            turns: Those that compete.
            now_s: Seconds, on the clock of `enter`.
            ahead: Others whose prompts come before these of their clients.
        """
        competing = list(turns)
        if len(competing) < 2:  # noqa: PLR2004  # nobody to compete with
            return competing
        top = min(turn.priority for turn in competing)
        due: dict[str, float] = {}
        for turn in ahead:
            served = self._accounts[turn.client].served
            due[turn.client] = due.get(turn.client, served) + turn.left_tokens
        levels = {
            turn: max(top, turn.priority - int((now_s - turn.since_s) / LEVEL_S))
            for turn in competing
        }
        competing.sort(
            key=lambda turn: (
                levels[turn],
                not turn.is_held,
                turn.tag,
                turn.number,
            )
        )
        ranked = []
        for turn in competing:
            before = due.get(turn.client, self._accounts[turn.client].served)
            due[turn.client] = before + turn.left_tokens
            ranked.append((levels[turn], not turn.is_held, due[turn.client], turn.number, turn))
        ranked.sort(key=lambda entry: entry[:4])
        return [entry[4] for entry in ranked]

    @property
    def account_count(self) -> int:
        """Clients that are remembered."""
        return len(self._accounts)

    def _charge(self, turn: Turn, tokens: float) -> None:
        self._accounts[turn.client].served += tokens
        self._time += tokens / max(1, self._active_count)

    def _fall_back(self, turn: Turn, left_tokens: int) -> None:
        """A request that was answered already has to be computed again."""
        account = self._accounts[turn.client]
        turn.is_behind = True
        turn.tag = account.served + left_tokens
        account.behind_count += 1
        self._behind_count += 1

    def _forget(self) -> None:
        """Nobody waits: whoever was served had it from nobody."""
        self._time = 0.0
        self._accounts = {
            client: _Account(0.0, account.open_count)
            for client, account in self._accounts.items()
            if account.open_count
        }

    def _sweep(self) -> None:
        """Drop accounts that say no more than the common time does."""
        self._accounts = {
            client: account
            for client, account in self._accounts.items()
            if account.open_count or account.served > self._time
        }
        self._sweep_at = max(LEAST_SWEEP, 2 * len(self._accounts))
