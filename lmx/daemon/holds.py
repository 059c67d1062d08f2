"""Requests that consist of several replies, and what they do between two of them.

A held request is one to its client: its later replies are opened even while the daemon drains, it
is seen and cancelled by its id while no worker knows of it, and the daemon is not idle before it
has ended. What is done between two replies is not known here; it is waited for and cut off.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from lmx.daemon.model import Model
from lmx.daemon.origin import Origin
from lmx.daemon.running import CANCELLED, NAME_LIMIT, RunningRequest
from lmx.errors import LmxError, RequestCancelled

T = TypeVar("T")
FindModel = Callable[[], Awaitable[Model]]


class Hold:
    """One such request.

    Args:
        origin: Where it comes from.
        model_name: As the client spelled it.
        find: Waits until that model can answer.

    Attributes:
        origin: The same.
        model_id: Canonical, once it is known; before that as the client spelled it.
        error: Why it is to end, once it is.
        is_working: Whether it is between two replies.
    """

    def __init__(self, origin: Origin, model_name: str, find: FindModel) -> None:
        now_s = trio.current_time()
        self.origin = origin
        self.model_id = model_name[:NAME_LIMIT]
        self.error: LmxError | None = None
        self.is_working = False
        self._received_s = now_s if origin.received_s is None else origin.received_s
        self._received_at = time.time() - (now_s - self._received_s)
        self._find = find
        self._scope = trio.CancelScope()

    def check(self) -> None:
        """Go on only if it may.

        Raises:
            LmxError: It is to end.
        """
        if self.error is not None:
            raise self.error

    async def during(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something between two replies.

        Raises:
            LmxError: It is to end; the work was cancelled.
        """
        self.check()
        self.is_working = True
        try:
            with trio.CancelScope() as self._scope:
                found = await work()
        finally:
            self.is_working = False
        self.check()
        return found

    async def find_model(self) -> str:
        """The canonical id of the model that is going to answer, once it can.

        Raises:
            LmxError: There is no such model, it cannot be loaded, or this is to end.
        """
        self.model_id = (await self.during(self._find)).id
        return self.model_id

    def fail(self, error: LmxError) -> None:
        """End it, for this reason. Idempotent."""
        if self.error is None:
            self.error = error
            self._scope.cancel()

    def read(self) -> RunningRequest:
        """What it is doing, while it works."""
        return RunningRequest(
            request_id=self.origin.request_id,
            model_id=self.model_id,
            client=self.origin.client,
            route=self.origin.route,
            state="skills",
            received_at=round(self._received_at, 3),
            age_s=round(trio.current_time() - self._received_s, 3),
            prompt_tokens=0,
            completion_tokens=0,
            tokens_per_second=0.0,
        )


class Holds:
    """All held requests, in order of arrival."""

    def __init__(self) -> None:
        self._held: list[Hold] = []

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def enter(self, origin: Origin, model_name: str, find: FindModel) -> Iterator[Hold]:
        """Hold a request until the block is left."""
        hold = Hold(origin, model_name, find)
        self._held.append(hold)
        try:
            yield hold
        finally:
            self._held.remove(hold)

    def covers(self, origin: Origin) -> bool:
        """Whether a reply belongs to a held request."""
        return any(hold.origin.request_id == origin.request_id for hold in self._held)

    def cancel(self, request_id: str) -> bool:
        """End those of this id; says whether there was any."""
        found = [hold for hold in self._held if hold.origin.request_id == request_id]
        for hold in found:
            hold.fail(RequestCancelled(CANCELLED))
        return bool(found)

    def fail(self, error: LmxError) -> None:
        """End all of them."""
        for hold in self._held:
            hold.fail(error)

    def read(self) -> list[RunningRequest]:
        """Those that no worker knows of now."""
        return [hold.read() for hold in self._held if hold.is_working]
