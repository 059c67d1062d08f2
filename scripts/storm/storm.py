"""A storm: clients that ask without pause, and drivers that break what answers them.

Theory of operation. Each model has a driver that takes its planned faults one by one: it brings the
worker into the phase that is asked for (with a request of its own, or by holding the clients back),
strikes, and waits until the daemon's log says that the model is up again. Drivers run side by side,
so that models are broken while others are. A fault in the load strikes the worker that comes up
after the fault before it. What every request came to is judged afterwards, by `judge`.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2
import trio

from scripts.storm.clients import Asker, Outcome, open_http, post
from scripts.storm.daemon import Daemon, Line, StormFailed, loaded_model
from scripts.storm.faults import ASKED, harm
from scripts.storm.house import break_house
from scripts.storm.judge import Fault
from scripts.storm.plan import Phase, Planned

STALL_S = 1.5
LOAD_LIMIT_S = 15.0
CPU_PATIENCE = 4
RECOVERY_LIMIT_S = 90.0
MOST_TOKENS = 10
LONG_PROMPT, SHORT_PROMPT = 2000, 40
LONGEST_PAUSE_S = 0.1
SETTINGS = {
    "LMX_WORKER__STALL_S": str(STALL_S),
    "LMX_WORKER__LOAD_LIMIT_S": str(LOAD_LIMIT_S),
}


@dataclass
class Target:
    """A model under attack.

    Attributes:
        id: Its name.
        is_real: A real engine computes it, on a CPU.
        load_s: How long its last load took.
        is_open: Clients may ask it.
        asking: Requests of clients that are under way.
        completed_at_s: When a request last completed.
    """

    id: str
    is_real: bool
    load_s: float = 1.0
    is_open: bool = True
    asking: int = 0
    completed_at_s: float = 0.0
    faults: list[Fault] = field(default_factory=list)

    @property
    def stall_limit_s(self) -> float:
        """When its silence counts as a hang."""
        return STALL_S * (CPU_PATIENCE if self.is_real else 1)


class Storm:
    """One storm over one daemon.

    Args:
        daemon: Its models are up.
        targets: The models.
        seed: Of what clients ask.

    Attributes:
        daemon: The same.
        outcomes: How requests ended.
        house: Faults that were no running model's.
    """

    def __init__(self, daemon: Daemon, targets: Sequence[Target], *, seed: int) -> None:
        self.daemon = daemon
        self._targets = {target.id: target for target in targets}
        self._seed = seed
        self.outcomes: list[Outcome] = []
        self.house: list[Fault] = []

    @property
    def faults(self) -> list[Fault]:
        """All that happened so far."""
        return [*self.house, *(f for target in self._targets.values() for f in target.faults)]

    async def run(self, plan: dict[str, list[Planned]], *, clients: int) -> None:
        """Let it loose until every planned fault has happened and every request has ended."""
        async with open_http(self.daemon.url) as http:
            asker = Asker(http)
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                for number in range(clients):
                    nursery.start_soon(self._be_client, asker, number, stop)
                async with trio.open_nursery() as drivers:
                    drivers.start_soon(break_house, self.daemon, http, plan[""], self.house)
                    for target in self._targets.values():
                        drivers.start_soon(Driver(self, target, asker, http).run, plan[target.id])
                stop.set()

    async def ask(
        self,
        asker: Asker,
        target: Target,
        prompt: str,
        *,
        max_tokens: int,
        is_streamed: bool,
        first_text: trio.Event | None = None,
    ) -> None:
        """One request, noted."""
        target.asking += 1
        outcome = await asker.ask(
            target.id,
            prompt,
            max_tokens=max_tokens,
            is_streamed=is_streamed,
            first_text=first_text,
        )
        target.asking -= 1
        self.outcomes.append(outcome)
        if outcome.ending == "completed":
            target.completed_at_s = outcome.began_s

    async def _be_client(self, asker: Asker, number: int, stop: trio.Event) -> None:
        """Ask one model again and again, so that each always has as many clients."""
        chance = random.Random(f"{self._seed}.{number}")  # noqa: S311  # no secret
        target = list(self._targets.values())[number % len(self._targets)]
        count = 0
        while not stop.is_set():
            count += 1
            if target.is_open:
                length = chance.choice((SHORT_PROMPT, SHORT_PROMPT, LONG_PROMPT))
                await self.ask(
                    asker,
                    target,
                    make_prompt(f"client {number}.{count}", length),
                    max_tokens=chance.randint(1, 60),
                    is_streamed=chance.choice((True, False)),
                )
            await trio.sleep(chance.random() * LONGEST_PAUSE_S)


class Driver:
    """Breaks one model, again and again.

    Args:
        storm: What it is part of.
        target: The model.
        asker: For requests of its own.
        http: For the admin API.
    """

    def __init__(
        self, storm: Storm, target: Target, asker: Asker, http: httpx2.AsyncClient
    ) -> None:
        self._storm = storm
        self._target = target
        self._asker = asker
        self._http = http
        self._requests = 0

    async def run(self, plan: Sequence[Planned]) -> None:
        """Do everything that is planned; what goes wrong for good ends it and is noted."""
        async with trio.open_nursery() as requests:
            try:
                await self._break_all(plan, requests)
            except (StormFailed, httpx2.HTTPError) as error:
                self._target.is_open = True
                self._target.faults[-1].detail = str(error) or type(error).__name__

    async def _break_all(self, plan: Sequence[Planned], requests: trio.Nursery) -> None:
        unsettled: list[Fault] = []
        for planned, following in zip(plan, (*plan[1:], None), strict=True):
            if planned.phase == "loading" and await self._is_barred(unsettled[-1]):
                await self._settle(unsettled)
                unsettled = []
            unsettled.append(await self._strike(planned, requests))
            if following is None or following.phase != "loading":
                await self._settle(unsettled)
                unsettled = []
                await self._wait_answer()

    async def _strike(self, planned: Planned, requests: trio.Nursery) -> Fault:
        """Bring the worker into the phase and strike."""
        phase = planned.phase
        if phase == "loading":
            await trio.sleep(planned.chance * self._target.load_s)
            phase = "decoding" if self._worker()[1] else "loading"
        elif phase == "idle":
            await self._hold_clients()
        elif planned.kind not in ASKED:
            phase = await self._send_bait(planned, requests)
        pid, _ = self._worker()
        fault = Fault(self._target.id, planned.kind, phase, pid, time.time())
        self._target.faults.append(fault)
        if planned.kind in ASKED:
            await self._ask_to_fail(planned, requests)
            fault.silence_s = time.time() - fault.at_s
        else:
            harm(pid, planned.kind)
        if planned.kind == "SIGSTOP":
            is_load = phase == "loading"
            fault.silence_s = LOAD_LIMIT_S if is_load else self._target.stall_limit_s
            # Only work that is not done shows that it hangs.
            self._bait("wake", requests)
        self._target.is_open = True
        return fault

    async def _is_barred(self, struck: Fault) -> bool:
        """Wait for the load that follows a fault; whether there is none, but a quarantine."""
        line = await self._storm.daemon.log.wait(
            lambda line: (
                self._is_about(line, "model loads") or self._is_about(line, "model quarantined")
            ),
            after_s=struck.at_s,
            limit_s=RECOVERY_LIMIT_S,
            what=f"the next load of {self._target.id}",
        )
        return line.event == "model quarantined"

    async def _hold_clients(self) -> None:
        """Until nobody asks the model anything."""
        self._target.is_open = False
        while self._target.asking:  # noqa: ASYNC110  # clients are not told to tell
            await trio.sleep(LONGEST_PAUSE_S / 10)

    async def _send_bait(self, planned: Planned, requests: trio.Nursery) -> Phase:
        """Send a request and wait until it is in the phase; returns the one it is in."""
        is_prefill = planned.phase == "prefill"
        has_text = self._bait("bait", requests, length=LONG_PROMPT if is_prefill else SHORT_PROMPT)
        if is_prefill:
            await trio.sleep(0.01 + planned.chance * LONGEST_PAUSE_S)
        else:
            await has_text.wait()
            await trio.sleep(planned.chance * LONGEST_PAUSE_S / 2)
        return "decoding" if has_text.is_set() else "prefill"

    async def _ask_to_fail(self, planned: Planned, requests: trio.Nursery) -> None:
        """The request that brings the fault by itself: in its first step, or after some tokens.

        Returns when the first of those tokens has come; the fault is due from then on.
        """
        if planned.phase == "prefill":
            self._bait(f"fail:{ASKED[planned.kind]}:0", requests)
            return
        tokens = 1 + int(MOST_TOKENS * planned.chance)
        await self._bait(f"fail:{ASKED[planned.kind]}:{tokens}", requests).wait()

    def _bait(self, text: str, requests: trio.Nursery, *, length: int = SHORT_PROMPT) -> trio.Event:
        """Send a request of our own; the event is its first text."""
        self._requests += 1
        has_text = trio.Event()
        prompt = make_prompt(f"{text} of driver {self._requests}", length)

        async def ask() -> None:
            await self._storm.ask(
                self._asker,
                self._target,
                prompt,
                max_tokens=60,
                is_streamed=True,
                first_text=has_text,
            )

        requests.start_soon(ask)
        return has_text

    async def _settle(self, faults: Sequence[Fault]) -> None:
        """Wait until the model is up after the last of some faults, and note that in all."""
        line = await self._wait_up(faults)
        if self._is_about(line, "model quarantined"):
            for fault in faults:
                fault.was_barred = True
            await trio.sleep(LONGEST_PAUSE_S)
            await post(self._http, "load", self._target.id, expected=200)
            line = await self._wait_up(faults, may_be_barred=False)
        load_s = self._loaded_s(line) or 0.0
        self._target.load_s = load_s
        for fault in faults:
            fault.recovered_s = line.at_s
            fault.load_s = load_s
            fault.is_judged = fault is faults[-1]

    async def _wait_up(self, faults: Sequence[Fault], *, may_be_barred: bool = True) -> Line:
        """The line that says that the model is up with a worker that was not struck, or barred.

        Raises:
            StormFailed: It does not come back.
        """
        deadline_s = time.time() + RECOVERY_LIMIT_S
        while time.time() < deadline_s and self._storm.daemon.is_alive:
            line = self._find_up(faults, may_be_barred=may_be_barred)
            if line is not None:
                return line
            await trio.sleep(LONGEST_PAUSE_S / 10)
        raise StormFailed(f"{self._target.id} does not come back after {faults[-1]}")

    def _find_up(self, faults: Sequence[Fault], *, may_be_barred: bool) -> Line | None:
        struck = {fault.pid for fault in faults}
        is_fresh = False
        for line in self._storm.daemon.log.since(faults[0].at_s):
            if self._is_about(line, "model loads"):
                is_fresh = line.fields["pid"] not in struck
            if may_be_barred and self._is_about(line, "model quarantined"):
                return line
            if is_fresh and self._loaded_s(line) is not None:
                return line
        return None

    async def _wait_answer(self) -> None:
        """Until a request that came after all this is answered, so that failures start anew."""
        began_s = time.time()
        with trio.move_on_after(RECOVERY_LIMIT_S):
            while self._target.completed_at_s < began_s:  # noqa: ASYNC110  # clients do not tell
                await trio.sleep(LONGEST_PAUSE_S / 10)
            return
        raise StormFailed(f"{self._target.id} answers nobody")

    def _worker(self) -> tuple[int, bool]:
        """The process of the newest worker, and whether it is up."""
        is_up = False
        for line in reversed(self._storm.daemon.log.lines):
            is_up = is_up or self._loaded_s(line) is not None
            if self._is_about(line, "model loads"):
                return int(line.fields["pid"]), is_up
        raise StormFailed(f"{self._target.id} never loaded")

    def _is_about(self, line: Line, event: str) -> bool:
        return line.event == event and line.fields.get("model") == self._target.id

    def _loaded_s(self, line: Line) -> float | None:
        loaded = loaded_model(line)
        return loaded[1] if loaded is not None and loaded[0] == self._target.id else None


def make_prompt(text: str, length: int) -> str:
    """A prompt of this many letters that nobody has sent before, if `text` is new."""
    filler = f"{text}. "
    return (filler * (length // len(filler) + 1))[: max(length, len(filler))]
