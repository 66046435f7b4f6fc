"""Weights & Biases, through Ray's own integration: one group a run, one W&B run a job."""

from __future__ import annotations

from typing import ClassVar

from niwaki.search.outcome import Outcome
from niwaki.search.trackers._base import TrackerSetup, figures, settings


class WandB:
    """Sends outcomes to the project that ``WANDB_PROJECT`` names (``niwaki`` without it); ``WANDB_MODE=offline`` works.

    Ray's callback starts two processes a trial, which is what this one job in a thread needs none of; the function
    that Ray gives to trainables does the same from here.
    """

    needs: ClassVar[str] = "wandb"

    def __init__(self, setup: TrackerSetup) -> None:
        import os

        from ray.air.integrations.wandb import setup_wandb

        self._begin, self._setup, self._step = setup_wandb, setup, setup.begun
        self._project = os.environ.get("WANDB_PROJECT", "niwaki")

    def tell(self, outcome: Outcome) -> None:
        import wandb

        self._step += 1
        run = self._begin(
            settings(outcome), trial_id=f"{self._setup.name[-8:]}-{outcome.key}", trial_name=outcome.key,
            group=self._setup.name, project=self._project, dir=str(self._setup.folder), resume="allow",
            reinit="create_new", settings=wandb.Settings(silent=True),
        )  # fmt: skip
        run.log({**figures(outcome), "outcome": self._step})
        run.finish(exit_code=0 if outcome.complete else 1)

    def close(self) -> None:
        """Every run has been finished."""
