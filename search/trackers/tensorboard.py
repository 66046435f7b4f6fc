"""TensorBoard event files in the run folder: ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

from typing import ClassVar

from niwaki.search.outcome import Outcome
from niwaki.search.trackers._base import TrackerSetup, figures


class TensorBoard:
    """A curve for every figure over the outcomes of a run, apart for each kind and rung of job; failures as text.

    Accuracies after different amounts of training are not one curve: ``accuracy/search_1`` is the first rung's.
    """

    needs: ClassVar[str] = "tensorboardX"

    def __init__(self, setup: TrackerSetup) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(  # the name has seconds in it: a session must not write over the one before
            logdir=str(setup.folder / "tensorboard"), filename_suffix=f".{setup.begun}", flush_secs=10
        )
        self._step = setup.begun

    def tell(self, outcome: Outcome) -> None:
        self._step += 1
        job = outcome.job
        if not outcome.complete:
            self._writer.add_text("failed", f"{outcome.key}\n\n    {outcome.error}", self._step)
            return
        kind = f"search_{job.rung + 1}" if job.kind == "search" else job.kind
        for name, value in figures(outcome).items():
            self._writer.add_scalar(f"{name}/{kind}", value, self._step)

    def close(self) -> None:
        self._writer.close()
