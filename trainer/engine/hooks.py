"""What goes along with training, step by step: the seam for averages, statistics and the like, a small file each."""

from __future__ import annotations

from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.reader import CheckpointReader


class Hook:
    """One companion of the loop. Every rank calls every method at the same steps; by default they do nothing."""

    def begin(self, reader: CheckpointReader | None) -> None:
        """Before the first step, when weights and moments are there: takes up its part of a checkpoint, if any."""

    def after_step(self, step: int) -> None:
        """After an optimiser step; must not wait for the device."""

    def extend(self, fragment: Fragment) -> Fragment:
        """Before a save: the fragment with what this hook keeps of its region, as more kinds of views."""
        return fragment

    def metrics(self) -> dict[str, float]:
        """What is logged with the metrics of a step, over the steps since the last call."""
        return {}

    def end(self) -> None:
        """After the last step of this start, when it has been logged and saved; not where an error ends it."""
