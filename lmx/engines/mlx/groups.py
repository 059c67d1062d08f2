"""The decoding rows as one or more batches, all of which are stepped in one step of the engine.

A batch costs what its rows would cost if all were as long as its longest, so rows of very different
length may be better off apart. Knows rows and batches, no prompts and no clients.

A batch with a constrained row is held: its next masks depend on the tokens before, so it is
launched after they were read. The others are launched before, and keep the device busy meanwhile.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmx.engines.mlx.batch import DecodeBatch, Launched, Rows

if TYPE_CHECKING:
    from lmx.engines.base import TokenLogprobs
    from lmx.engines.mlx.prefill import Ready
    from lmx.engines.mlx.sequence import LiveSequence


class DecodeGroups:
    """Sequences that get one token per step.

    Args:
        model: An mlx-lm model.
        end_ids: What rows with a least number of tokens may not sample before.
    """

    def __init__(self, model: Any, end_ids: Sequence[int]) -> None:
        self._model = model
        self._end_ids = end_ids
        self._batches: list[DecodeBatch] = []
        self._held: list[DecodeBatch] = []  # to be launched after the tokens before were read

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    @property
    def lone(self) -> DecodeBatch | None:
        """The batch of the only row, if one row is all there is."""
        return self._batches[0] if len(self) == 1 else None

    def join(self, ready: "Ready") -> None:
        """Add prefilled sequences; those removed in the meantime leave before the next launch."""
        if not self._batches:
            self._batches.append(DecodeBatch(self._model, self._end_ids))
        self._batches[0].join(Rows.of(ready))

    def drop_done(self) -> None:
        """Free the rows that need no further launch."""
        for batch in self._batches:
            batch.drop_done()
        self._batches = [batch for batch in self._batches if len(batch)]

    def clear(self) -> None:
        """Free every row."""
        self._batches, self._held = [], []

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None
        for batch in self._batches:
            batch.release_model()

    def launch(self) -> list[Launched]:
        """Submit the next step of every batch that need not wait for the tokens before.

        The others are launched by `launch_held`, once those were read.
        """
        self._held = [batch for batch in self._batches if batch.is_constrained]
        return self._launch([batch for batch in self._batches if batch not in self._held])

    def launch_held(self) -> list[Launched]:
        """Submit the next step of the batches that `launch` left out.

        Every constraint must have consumed its row's last token.
        """
        held, self._held = self._held, []
        for batch in held:
            batch.drop_done()
        return self._launch(held)

    def read(
        self, launched: Sequence[Launched]
    ) -> list[tuple["LiveSequence", int, "TokenLogprobs | None"]]:
        """What `launch` and `launch_held` have submitted; waits for the device."""
        return [row for one in launched for row in one.read()]

    def _launch(self, batches: list[DecodeBatch]) -> list[Launched]:
        launched = (batch.launch() for batch in batches)
        return [one for one in launched if one is not None]
