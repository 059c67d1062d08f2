"""How many tokens of prompts a step takes, so that running streams go on in time.

Theory of operation. What a step costs is measured, not assumed: from one step with results to the
next, which is what a client sees of it, whatever the device still had to do from the steps before.
A piece of prompt costs what its steps took beyond what they take without one. Engines let a step's
piece run while the next step is being prepared, so a measurement counts fully only when the last
few steps were alike. Of any others a single step can only say that something costs more than was
thought, and as many as an engine may be behind that the first piece costs no more than all of them
took: so a step that was held up, by a kernel that had to be compiled say, is forgotten again. Until
anything is known, pieces are the smallest. Knows seconds and tokens, no requests and no engine.
"""

from collections import deque
from typing import NamedTuple

# Gap between two tokens of a running stream, at most: what reading aloud does not notice.
GAP_S = 0.15
# On a CPU, where a step may take that long by itself: at least twice its gap without prompts. A
# long prompt pays for the steps beside it, and for going in crumbs, because kernels like large
# passes; so a fourteenth of the time is the streams' where that leaves gaps within these bounds.
CPU_GAPS, CPU_SHARES = 2.0, 14.0
CPU_LEAST_GAP_S, CPU_MOST_GAP_S = 0.2, 0.4
# Twice the tokens at less than this share of the cost for each are worth it.
WORTHWHILE = 0.75
# Of the gap, what is planned with; the rest is for what varies.
MARGIN = 0.9
# Most seconds of a piece when nobody decodes: as long may a short prompt wait that comes now.
IDLE_PIECE_S = 0.35
# Most seconds of several whole prompts at once, see `Pace.choose_together`: these, or so many steps
# if that is more.
TOGETHER_S, TOGETHER_STEPS = 0.5, 5.0
# Prompts go on by so much whatever it costs: with nobody decoding pieces stay worth their step.
LEAST_TOKENS, MOST_WORTHWHILE_TOKENS = 16, 64
LEAST_IDLE_TOKENS = 128
# Matrix kernels like multiples; small pieces have to be able to grow a little.
GRAIN_TOKENS, GRAINY_TOKENS = 16, 128
# Steps that have to be alike: the longest pipeline of an engine, and one.
ALIKE_STEPS = 3
ALIKE_SHARE = 0.15
# Between two steps, a pause over this is no part of either: the device was lent out, or idle.
PAUSE_S = 0.005
SMOOTHING = 0.3
# A measurement counts as this many times what was known at most: some are accidents.
MOST_SURPRISE = 4.0
# Steps that go without prompts at most, to learn what one costs.
LISTEN_STEPS = 6
# What a token costs in a band of depths that was never measured, beside the band above it.
DEEPER_FACTOR = 1.25
DEPTH_BAND_TOKENS = 4096


class PaceSettings(NamedTuple):
    """What is known of an engine beforehand.

    Attributes:
        gap_target_s: Longest gap between two tokens of a running stream; `None` for the device's
            usual one.
        samples: Prompt tokens of passes that were measured, and the seconds each took.
    """

    gap_target_s: float | None = None
    samples: tuple[tuple[int, float], ...] = ()


USUAL_PACE = PaceSettings()


class Piece(NamedTuple):
    """What one step computed of prompts.

    Attributes:
        tokens: All of them.
        depth_tokens: How far the first prompt was before.
    """

    tokens: int = 0
    depth_tokens: int = 0


class _Step(NamedTuple):
    """One step as it was seen.

    Attributes:
        is_known: It came right after another, of which the same was seen.
        kind: It delivered, it only computed prompts, or neither.
        piece: What it computed of prompts.
        took_s: From the end of the step before to its own.
    """

    is_known: bool
    kind: str
    piece: Piece
    took_s: float


class Pace:
    """Chooses the size of pieces for one engine.

    Args:
        device: Where it computes, as `ModelInfo` says.
        piece_tokens: Most tokens of a piece.
        settings: What is known of it.
    """

    def __init__(
        self, *, device: str, piece_tokens: int, settings: PaceSettings = USUAL_PACE
    ) -> None:
        self._is_gpu = device == "gpu"
        self._most = piece_tokens
        self._target_s = settings.gap_target_s
        self._decode_s: dict[int, float] = {}  # a step without prompts, by its streams
        self._costs: dict[int, dict[int, float]] = {}  # seconds per token by size, by depth
        self._steps: deque[_Step] = deque(maxlen=ALIKE_STEPS)
        self._ended_s: float | None = None
        self._listened = 0
        self._unknown_decode_s = 0.0
        for tokens, took_s in settings.samples:
            self._set_cost(0, tokens.bit_length(), took_s / tokens)
        # A step that reads all weights takes no longer.
        self._unknown_decode_s = min((took_s for _, took_s in settings.samples), default=0.0)

    def gap_s(self, stream_count: int) -> float | None:
        """The gap that so many running streams are to have at most; `None` while unknown."""
        if self._target_s is not None:
            return self._target_s
        if self._is_gpu:
            return GAP_S
        decode_s = self._step_s(stream_count)
        if not decode_s:
            return None
        shared_s = max(CPU_LEAST_GAP_S, min(CPU_SHARES * decode_s, CPU_MOST_GAP_S))
        return max(CPU_GAPS * decode_s, shared_s)

    def choose(self, stream_count: int, depth_tokens: int) -> int:
        """Tokens of prompts that the next step may compute.

        Args:
            stream_count: Sequences that decode beside.
            depth_tokens: How far the first prompt is.

        Returns:
            0 for a few steps at most, to learn what a step costs without.
        """
        if not stream_count:
            tokens = self._fit(IDLE_PIECE_S, depth_tokens)
            return self._most if tokens is None else max(tokens, self._least(LEAST_IDLE_TOKENS))
        gap_s = self.gap_s(stream_count)
        if gap_s is None:
            return self._listen()
        room_s = MARGIN * gap_s - self._step_s(stream_count)
        tokens = self._fit(room_s, depth_tokens)
        if tokens is None:
            return self._least(LEAST_TOKENS)
        is_near = tokens >= WORTHWHILE * LEAST_TOKENS
        return max(tokens, self._least(LEAST_TOKENS)) if is_near else self._worthwhile()

    def choose_together(self, stream_count: int, depth_tokens: int) -> int:
        """Tokens of several whole prompts that one step may compute beside streams.

        Each of them adds a stream, and a batch that fills slowly wastes what it could decode: on a
        CPU, where steps are dear, they go together at once, and the streams are given back what
        that took from them, see `rests`. 0 where pieces keep the gap one by one.

        Args:
            stream_count: Sequences that decode beside.
            depth_tokens: How far the first prompt is.
        """
        if self._is_gpu or self._target_s is not None or not stream_count:
            return 0
        room_s = max(TOGETHER_S, TOGETHER_STEPS * self._step_s(stream_count))
        return self._fit(room_s, depth_tokens) or 0

    def rests(self, tokens: int, stream_count: int, depth_tokens: int) -> int:
        """Steps without prompts after such a piece, so that the gap is kept on average.

        Args:
            tokens: Of the piece.
            stream_count: Sequences that decoded beside.
            depth_tokens: How far the first prompt was.
        """
        decode_s, gap_s = self._step_s(stream_count), self.gap_s(stream_count)
        costs, deeper = self._costs_at(depth_tokens)
        cost = self._cost_of(tokens.bit_length(), costs)
        if not decode_s or not gap_s or cost is None:
            return 0
        return int(deeper * cost * tokens / (gap_s - decode_s))

    def observe(
        self, *, began_s: float, ended_s: float, stream_count: int, piece: Piece, delivered: bool
    ) -> None:
        """Learn from a step.

        Args:
            began_s: When it was called.
            ended_s: When it returned.
            stream_count: Sequences that decoded.
            piece: What it computed of prompts.
            delivered: It had results.
        """
        last_s, self._ended_s = self._ended_s, ended_s
        follows = last_s is not None and began_s - last_s <= PAUSE_S
        kind = "decode" if delivered else "silent" if stream_count else "prefill"
        previous = self._steps[-1].kind if self._steps else ""
        took_s = 0.0 if last_s is None else ended_s - last_s
        self._steps.append(_Step(follows and kind == previous, kind, piece, took_s))
        if not self._steps[-1].is_known or kind == "silent":
            return
        beside_s = 0.0
        if delivered:
            if self._is_without_prompts():
                self._learn_decode(stream_count, took_s)
                return
            beside_s = self._decode_time_s(stream_count) or 0.0
        self._learn_piece(max(0.0, took_s - beside_s))
        self._learn_limit()

    def _listen(self) -> int:
        """A few steps without prompts tell what one costs; if they do not, prompts go on."""
        self._listened += 1
        return 0 if self._listened <= LISTEN_STEPS else self._least(LEAST_TOKENS)

    def _is_without_prompts(self) -> bool:
        steps = self._last(ALIKE_STEPS)
        return bool(steps) and not any(step.piece.tokens for step in steps)

    def _last(self, count: int) -> list[_Step]:
        """The last steps, if the first of them is the only one that may not be known; else none."""
        steps = list(self._steps)[-count:]
        are_known = len(steps) == count and all(step.is_known for step in steps[1:])
        return steps if are_known else []

    def _learn_decode(self, stream_count: int, took_s: float) -> None:
        known_s = self._decode_s.get(stream_count, took_s)
        self._decode_s[stream_count] = known_s + SMOOTHING * (took_s - known_s)

    def _learn_piece(self, took_s: float) -> None:
        """The last pieces took so long each if they were alike, else the largest at least."""
        largest = max((step.piece for step in self._steps), key=lambda piece: piece.tokens)
        if not largest.tokens:
            return
        band, size = _depth_band(largest.depth_tokens), largest.tokens.bit_length()
        costs = self._costs.get(band, {})
        known = self._cost_of(size, costs)
        alike = self._find_alike(largest.tokens)
        cost = took_s / (alike or largest.tokens)
        if alike and size not in costs:
            self._set_cost(band, size, cost)
        elif known is not None and (alike or cost > known):
            shown = min(cost, MOST_SURPRISE * known)
            self._set_cost(band, size, known + SMOOTHING * (shown - known))

    def _learn_limit(self) -> None:
        """The first of the last pieces is paid for by now: it took no longer than all the steps."""
        steps = self._last(ALIKE_STEPS)
        if not steps or not steps[0].piece.tokens:
            return
        piece = steps[0].piece
        band, size = _depth_band(piece.depth_tokens), piece.tokens.bit_length()
        known = self._cost_of(size, self._costs.get(band, {}))
        limit = sum(step.took_s for step in steps) / piece.tokens
        if known is not None and limit < known:
            self._set_cost(band, size, known + SMOOTHING * (limit - known))

    def _set_cost(self, band: int, size: int, cost: float) -> None:
        """A larger piece never costs more per token than a smaller one, nor a smaller one less."""
        costs = self._costs.setdefault(band, {})
        for other, known in costs.items():
            costs[other] = min(known, cost) if other > size else max(known, cost)
        costs[size] = cost

    def _costs_at(self, depth_tokens: int) -> tuple[dict[int, float], float]:
        """Costs by size of the nearest band that was measured, and how much dearer this one is."""
        band = _depth_band(depth_tokens)
        if not self._costs:
            return {}, 1.0
        nearest = max((b for b in self._costs if b <= band), default=min(self._costs))
        return self._costs[nearest], DEEPER_FACTOR ** max(0, band - nearest)

    def _cost_of(self, size: int, costs: dict[int, float]) -> float | None:
        """Of a size, or of the next smaller one that was measured, else of the next larger one."""
        if size in costs or not costs:
            return costs.get(size)
        smaller = [other for other in costs if other < size]
        return costs[max(smaller) if smaller else min(costs)]

    def _find_alike(self, tokens: int) -> int:
        """The smallest of the last pieces if no larger one is much larger, else 0.

        Whichever of them the last step paid for, it was not smaller.
        """
        # With nobody decoding, engines wait for the piece before.
        count = ALIKE_STEPS if self._steps[-1].kind == "decode" else ALIKE_STEPS - 1
        steps = self._last(count)
        if not steps:
            return 0
        smallest = min(step.piece.tokens for step in steps)
        return smallest if smallest >= (1 - ALIKE_SHARE) * tokens else 0

    def _decode_time_s(self, stream_count: int) -> float | None:
        """Of a step with so many streams, or of the next smaller or larger number known."""
        if stream_count in self._decode_s or not self._decode_s:
            return self._decode_s.get(stream_count)
        below = [count for count in self._decode_s if count < stream_count]
        return self._decode_s[max(below) if below else min(self._decode_s)]

    def _step_s(self, stream_count: int) -> float:
        """What a step without prompts takes, or at most takes; 0 while nothing is known."""
        return self._decode_time_s(stream_count) or self._unknown_decode_s

    def _worthwhile(self) -> int:
        """The smallest piece that is worth its step, or the next one that may be.

        A piece has costs of its own, such as reading all weights. Twice the tokens for little more
        time are taken where not even the least keeps the gap.
        """
        costs: dict[int, float] = {}
        for band in sorted(self._costs, reverse=True):
            costs |= self._costs[band]
        tokens = LEAST_TOKENS
        while tokens < MOST_WORTHWHILE_TOKENS:
            size = tokens.bit_length()
            if size not in costs:
                break
            if costs.get(size + 1, 0.0) > WORTHWHILE * costs[size]:
                break
            tokens *= 2
        return self._least(tokens)

    def _fit(self, room_s: float, depth_tokens: int) -> int | None:
        """The largest piece that takes no longer; `None` while nothing is known."""
        costs, deeper = self._costs_at(depth_tokens)
        if not costs:
            return None
        room_s /= deeper
        best = 0
        for size in range(1, self._most.bit_length() + 1):
            cost = self._cost_of(size, costs)
            top = min(self._most, (1 << size) - 1)
            affordable = int(room_s / cost) if cost else top
            if affordable >= 1 << (size - 1):
                best = min(top, affordable)
        if GRAINY_TOKENS <= best < self._most:
            best -= best % GRAIN_TOKENS
        return best

    def _least(self, tokens: int) -> int:
        return min(tokens, self._most)


def _depth_band(depth_tokens: int) -> int:
    """Depths whose tokens cost about the same: the first ones together, then each doubling."""
    return (depth_tokens // DEPTH_BAND_TOKENS).bit_length()
