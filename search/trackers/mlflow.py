"""MLflow, through Ray's own callback: one experiment a run, one MLflow run a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from niwaki.search.outcome import Outcome
from niwaki.search.trackers._base import TrackerSetup, figures, settings


class MLflow:
    """Sends outcomes to where ``MLFLOW_TRACKING_URI`` says (MLflow's own default without it).

    The experiment is called as the study of the run is, or as ``MLFLOW_EXPERIMENT_NAME`` says.
    """

    needs: ClassVar[str] = "mlflow"

    def __init__(self, setup: TrackerSetup) -> None:
        import os

        from ray.air.integrations.mlflow import MLflowLoggerCallback

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", setup.name)
        make: Any = MLflowLoggerCallback  # it asks for whole Tune trials, and has no types to speak of
        self._callback = make(experiment_name=experiment, tags={"niwaki": setup.name})
        self._callback.setup()
        self._step = setup.begun

    def tell(self, outcome: Outcome) -> None:
        self._step += 1
        trial = _Trial(outcome.key, settings(outcome))
        self._callback.log_trial_start(trial)
        self._callback.log_trial_result(0, trial, {**figures(outcome), "training_iteration": self._step})
        self._callback.log_trial_end(trial, failed=not outcome.complete)

    def close(self) -> None:
        """Every run has been ended."""


@dataclass(frozen=True, eq=False)
class _Trial:
    """The part of a Ray Tune trial that the callback looks at: a job is known only when it has ended."""

    key: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return self.key
