"""Short prompts pass long ones, clients share, priorities hold, and nobody waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.worker.turns import LEAST_SWEEP, LEVEL_S, Turn, Turns


class Line:
    """Requests that compete, served as the order says.

    Attributes:
        turns: The accounts.
        waiting: Who competes.
        served: Tokens computed so far, by client.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self.waiting: list[Turn] = []
        self.served: dict[str, int] = {}

    def enter(self, client: str = "", tokens: int = 100, *, priority: int = 0) -> Turn:
        """A request comes at second 0."""
        turn = self.turns.enter(client, priority=priority, tokens=tokens, now_s=0.0)
        self.waiting.append(turn)
        return turn

    def order(self, now_s: float = 0.0) -> list[Turn]:
        """The order then."""
        return self.turns.order(self.waiting, now_s)

    def serve(self, tokens: int, now_s: float = 0.0) -> Turn | None:
        """Compute up to so many tokens of the first one; it, if it is done with."""
        first = self.order(now_s)[0]
        done = min(tokens, first.left_tokens)
        self.served[first.client] = self.served.get(first.client, 0) + done
        self.turns.note_left(first, first.left_tokens - done, computed=done)
        if first.left_tokens:
            return None
        self.end(first)
        return first

    def end(self, turn: Turn) -> None:
        """A request is over."""
        self.waiting.remove(turn)
        self.turns.leave(turn)


def test_equals_go_in_order_of_arrival() -> None:
    """Of one client or of several."""
    line = Line()
    turns = [line.enter(client) for client in ("a", "a", "b", "c", "b")]
    assert [turns[i] for i in (0, 2, 3, 1, 4)] == line.order()


def test_a_short_prompt_passes_a_long_one() -> None:
    """Of the same client or of another, and also while the long one is under way."""
    for client in ("a", "b"):
        line = Line()
        long = line.enter("a", 10_000)
        line.serve(4_000)
        short = line.enter(client, 100)
        assert [short, long] == line.order()


def test_a_prompt_that_is_nearly_done_is_not_passed() -> None:
    """What counts is what is left of it."""
    line = Line()
    long = line.enter("a", 10_000)
    line.serve(9_950)
    assert [long, line.enter("b", 100)] == line.order()


def test_two_long_prompts_go_one_after_the_other() -> None:
    """Taking turns would make both late."""
    line = Line()
    first, second = line.enter("a", 10_000), line.enter("b", 10_000)
    done = [turn for _ in range(20) if (turn := line.serve(1_000))]
    assert [first, second] == done


def test_a_client_with_many_does_not_push_out_one_with_one() -> None:
    """Its second request is behind the other client's first."""
    line = Line()
    many = [line.enter("a", 1_000) for _ in range(10)]
    line.serve(500)
    one = line.enter("b", 1_000)
    assert [many[0], one, *many[1:]] == line.order()


def test_prompts_under_way_count_for_those_that_wait() -> None:
    """A client whose prompts are being computed has had the next slot already."""
    line = Line()
    busy, next_one, other = line.enter("a"), line.enter("a"), line.enter("b")
    assert [next_one, other] == line.turns.order([next_one, other], 0.0)
    assert [other, next_one] == line.turns.order([next_one, other], 0.0, ahead=[busy])


def test_answers_cost_their_client() -> None:
    """So does a token of an answer, more than one of a prompt; only while somebody waits."""
    line = Line()
    running = line.enter("a", 10)
    line.turns.catch_up(running)
    line.waiting.remove(running)
    first, second = line.enter("a"), line.enter("b")
    assert [first, second] == line.order()
    line.turns.charge_answer(running, 1)
    assert [second, first] == line.order()
    line.turns.note_left(second, 99, computed=1)
    line.turns.charge_answer(running, 1)
    assert [second, first] == line.order()


def test_nobody_saves_up_turns() -> None:
    """A client that asked for nothing has no claim on the time in which another was served."""
    line = Line()
    for number in range(10):
        line.enter("a", 1_000)
        if number:
            line.serve(1_000)
    one, two = line.enter("b", 1_000), line.enter("b", 1_000)
    (waiting,) = {*line.waiting} - {one, two}
    assert [waiting, one, two] == line.order()


def test_what_was_used_while_nobody_waited_costs_nothing() -> None:
    """The client that had the device to itself is not made to wait for it afterwards."""
    line = Line()
    for _ in range(10):
        line.enter("a", 1_000)
        line.serve(1_000)
    first, second = line.enter("a", 100), line.enter("b", 100)
    assert [first, second] == line.order()


def test_urgent_requests_go_first() -> None:
    """Whatever their clients were served, and however long they are."""
    line = Line()
    batch = line.enter("a", 10, priority=10)
    normal = line.enter("b", 100)
    urgent = line.enter("c", 1_000, priority=-10)
    assert [urgent, normal, batch] == line.order()


def test_waiting_makes_urgent() -> None:
    """Level by level, up to the most urgent one there, where clients count again."""
    line = Line()
    batch = line.enter("a", 10, priority=2)
    urgent = line.enter("b", 100, priority=0)
    assert [urgent, batch] == line.order(1.9 * LEVEL_S)
    assert [batch, urgent] == line.order(2 * LEVEL_S)
    heavy = line.enter("c", 5_000, priority=1)
    assert [batch, urgent, heavy] == line.order(1_000 * LEVEL_S)


def test_waiting_alone_changes_no_order() -> None:
    """Requests that are equally urgent share by client however long they have waited."""
    line = Line()
    turns = [line.enter("a") for _ in range(3)]
    late = line.turns.enter("b", priority=0, tokens=100, now_s=500.0)
    line.waiting.append(late)
    assert [turns[0], late, *turns[1:]] == line.order(1_000.0)


def test_who_is_held_stays_first_of_its_level() -> None:
    """Smaller and less served ones pass it no more; more urgent ones do."""
    line = Line()
    large = line.enter("a", 5_000)
    large.is_held = True
    small = line.enter("b", 1)
    urgent = line.enter("c", 9_000, priority=-1)
    assert [urgent, large, small] == line.order()
    assert [large, small, urgent] == line.order(LEVEL_S)


def test_what_is_computed_again_is_not_charged_again() -> None:
    """An answer that lost its place stands in line with what it lacks, and costs once."""
    line = Line()
    lost, other = line.enter("a", 100), line.enter("b", 150)
    line.turns.catch_up(lost)
    line.turns.note_left(lost, 120, computed=0)
    assert [lost, other] == line.order()
    line.turns.note_left(lost, 60, computed=60)
    assert [lost, other] == line.order()  # 60 served and 60 to go
    line.turns.catch_up(lost)
    line.end(lost)
    line.end(other)


def test_what_a_cache_had_costs_nothing() -> None:
    """Neither its place nor its client's account."""
    line = Line()
    long, short = line.enter("a", 10_000), line.enter("b", 200)
    line.turns.note_left(long, 100, computed=0)
    assert [long, short] == line.order()
    line.turns.note_left(long, 0, computed=100)
    line.end(long)
    assert [line.enter("a", 99), short] == line.order()


ARRIVALS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 3_000), st.integers(-2, 2)), max_size=60
)


@given(ARRIVALS, st.floats(0, 100))
def test_the_order_is_of_all_and_only_those(
    arrivals: list[tuple[str, int, int]], now_s: float
) -> None:
    """Nobody is lost and nobody comes twice, in any mix, and every account is closed in the end."""
    line = Line()
    for client, tokens, priority in arrivals:
        line.enter(client, tokens, priority=priority)
    assert set(line.waiting) == set(line.order(now_s))
    assert len(line.waiting) == len(line.order(now_s))
    while line.waiting:
        line.serve(700, now_s)
    line.enter("z")
    assert 1 == line.turns.account_count


@given(st.lists(st.integers(1, 2_000), min_size=2, max_size=40), st.integers(1, 512), st.data())
def test_clients_that_always_ask_get_equal_shares(
    sizes: list[int], piece: int, data: st.DataObject
) -> None:
    """Whatever the sizes, two such clients never differ by more than two large requests."""
    line = Line()
    for client in "ab":
        for _ in range(3):
            line.enter(client, data.draw(st.sampled_from(sizes)))
    for _ in range(200):
        done = line.serve(piece)
        if done is not None:
            line.enter(done.client, data.draw(st.sampled_from(sizes)))
        difference = abs(line.served.get("a", 0) - line.served.get("b", 0))
        assert difference <= 2 * max(sizes)


@given(st.integers(5, 60), st.integers(16, 64), st.booleans())
def test_a_long_prompt_is_not_starved(short: int, piece: int, is_same: bool) -> None:  # noqa: FBT001
    """However many short ones come, of its client or each of a new one, it has its share.

    One short prompt competes at any time. With an equal share it would be done when twice its
    tokens were computed, and it is, give or take its own length.
    """
    line = Line()
    long = line.enter("long", 1_000)
    line.serve(1)
    line.enter("long" if is_same else "0", short)
    number = 0
    while long in line.waiting:
        done = line.serve(piece)
        assert sum(line.served.values()) <= 3 * 1_000 + 2 * (short + piece)
        if done is not None and done is not long:
            number += 1
            line.enter("long" if is_same else str(number), short)


@given(st.integers(1, 10), st.integers(1, 20))
def test_the_least_urgent_is_not_starved(behind: int, arrivals_per_level: int) -> None:
    """Urgent requests of new clients come without end; waiting brings it up to them."""
    line = Line()
    low = line.enter("low", 100, priority=behind)
    step_s = LEVEL_S / arrivals_per_level
    for number in range((behind + 3) * arrivals_per_level):
        line.enter(str(number), 100)
        if line.serve(100, number * step_s) is low:
            return
    raise AssertionError("it never had its turn")


def test_clients_are_forgotten() -> None:
    """Many that come once leave nothing behind, though somebody always waits."""
    line = Line()
    line.enter("patient", 10**9)
    for number in range(5_000):
        line.enter(str(number), 10)
        line.serve(10)
    assert line.turns.account_count <= 2 * LEAST_SWEEP
