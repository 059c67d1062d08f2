"""What the next step goes on with: joins whose turn it is with how much there is time for.

It knows which sequences belong to which turn and how far the engine is with their prompts. Who has
a slot, and what a request is told, is the scheduler's.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from lmx.engines.base import Engine, PrefillShare
from lmx.protocol.values import Pacing
from lmx.worker.pacing import Pace, PaceSettings, Piece
from lmx.worker.turns import Turn, Turns


class Beside(NamedTuple):
    """What a step's piece is beside.

    Attributes:
        stream_count: Sequences that decode.
        depth_tokens: How far the first prompt is.
    """

    stream_count: int
    depth_tokens: int


class Planner:
    """Plans the prompts of every step of one engine. Engine thread only.

    Args:
        engine: Asked for what it has to prefill, and told nothing.
        pace: What is known of the engine's speed.

    Attributes:
        pacing: Of the last step that computed prompts.
        has_news: It was not told yet; for whoever tells it to say.
    """

    def __init__(self, engine: Engine, *, pace: PaceSettings) -> None:
        self._engine = engine
        self._turns = Turns()
        self._pace = Pace(
            device=engine.info.device,
            piece_tokens=engine.chunk_tokens,
            settings=pace,
        )
        self._turn_of: dict[int, Turn] = {}
        self._live: dict[Turn, int] = {}  # sequences of each, at least 1
        # As the step under way was planned.
        self._pending: dict[int, int] = {}
        self._given: dict[int, int] = {}
        self._beside = Beside(0, 0)
        self._stands_back = False
        self._rests = 0  # steps without prompts that streams have coming
        self.pacing: Pacing | None = None
        self.has_news = False

    def enter(self, client: str, *, priority: int, tokens: int, now_s: float) -> Turn:
        """A request came; see `Turns.enter`."""
        return self._turns.enter(client, priority=priority, tokens=tokens, now_s=now_s)

    def withdraw(self, turn: Turn) -> None:
        """A request ended without having been admitted."""
        self._turns.leave(turn)

    def line_up(self, waiting: Collection[Turn], now_s: float) -> list[Turn]:
        """Requests in the order in which they should get slots."""
        return self._turns.order(waiting, now_s, ahead=self._names(self._engine.prefilling()))

    def admit(self, turn: Turn, sequences: Iterable[int]) -> None:
        """A request got its slots, one for each of its choices' numbers."""
        for sequence in sequences:
            self._turn_of[sequence] = turn
            self._live[turn] = self._live.get(turn, 0) + 1

    def take_token(self, sequence: int) -> None:
        """A sequence was given a token."""
        turn = self._turn_of[sequence]
        self._turns.catch_up(turn)
        self._turns.charge_answer(turn, 1)

    def drop(self, sequence: int) -> None:
        """An admitted sequence ended. Once for each."""
        turn = self._turn_of.pop(sequence)
        self._live[turn] -= 1
        if not self._live[turn]:
            del self._live[turn]
            self._turns.leave(turn)

    def plan(self, now_s: float) -> list[PrefillShare]:
        """What the next step may compute of which prompts."""
        self._pending, self._given = self._engine.prefilling(), {}
        self._beside = Beside(len(self._turn_of), 0)
        if not self._pending:
            return []
        names = self._names(self._pending)
        for turn, mine in names.items():
            self._turns.note_left(turn, sum(self._pending[name] for name in mine), computed=0)
        streams = len(self._turn_of) - sum(self._live[turn] for turn in names)
        self._beside = Beside(streams, 0)
        self._stands_back = not self._stands_back and self._is_first_token_due()
        if self._stands_back:
            return []
        if self._rests and streams:
            self._rests -= 1
            return []
        order = self._turns.order(names, now_s)
        self._beside = Beside(streams, order[0].prompt_tokens - order[0].left_tokens)
        shares = self._choose([name for turn in order for name in names[turn]])
        self._given = {share.sequence_id: share.tokens for share in shares}
        return shares

    def observe(self, began_s: float, ended_s: float, *, delivered: bool) -> None:
        """The planned step was made.

        Args:
            began_s: When it was called.
            ended_s: When it returned.
            delivered: It had results.
        """
        left = self._engine.prefilling() if self._given else {}
        computed = 0
        for name, tokens in self._given.items():
            # More may be gone than was given: it turned up in the prefix cache.
            gone = min(tokens, self._pending[name] - left.get(name, 0))
            turn = self._turn_of[name]
            self._turns.note_left(turn, left.get(name, 0), computed=max(0, gone))
            computed += max(0, gone)
        if self._given and not computed:
            self._rests = 0  # the engine had something else to do first: nobody waited for it
        if computed:
            streams = self._beside.stream_count
            gap_s = self._pace.gap_s(streams) if streams else None
            self.pacing, self.has_news = Pacing(computed, gap_s), True
        self._pace.observe(
            began_s=began_s,
            ended_s=ended_s,
            stream_count=self._beside.stream_count,
            piece=Piece(computed, self._beside.depth_tokens if computed else 0),
            delivered=delivered,
        )

    def _is_first_token_due(self) -> bool:
        """A prompt is computed whose answer has not begun.

        One step without pieces brings it; more in a row would let short prompts stop long ones.
        """
        return any(turn.is_behind and not turn.left_tokens for turn in self._live)

    def _choose(self, names: list[int]) -> list[PrefillShare]:
        """Several whole prompts at once where that pays, else what fits into the gap."""
        shares = self._share(names, self._pace.choose_together(*self._beside))
        if len(shares) < 2:  # noqa: PLR2004  # a lone prompt goes in pieces that keep the gap
            return self._share(names, self._pace.choose(*self._beside))
        self._rests = self._pace.rests(sum(share.tokens for share in shares), *self._beside)
        return shares

    def _share(self, names: Iterable[int], room: int) -> list[PrefillShare]:
        """Whole prompts as long as they fit; a part of one by itself.

        A piece of a long prompt beside the end of a short one would only delay its first token.
        """
        shares: list[PrefillShare] = []
        for name in names:
            if self._pending[name] <= room:
                shares.append(PrefillShare(name, self._pending[name]))
                room -= self._pending[name]
            elif not shares and room > 0:
                return [PrefillShare(name, room)]
        return shares

    def _names(self, pending: Iterable[int]) -> dict[Turn, list[int]]:
        """Prompts by their turns: one each, but for answers that have to be computed again."""
        names: dict[Turn, list[int]] = {}
        for name in pending:
            names.setdefault(self._turn_of[name], []).append(name)
        return names
