"""Runners: where jobs are done. One runner a file; the file's name is its name in a configuration."""

from niwaki.search.runners._base import (
    WAIT,
    Ask,
    MakeWork,
    Pause,
    Runner,
    RunnerSetup,
    Tell,
    Work,
    cpu_count,
    default_workers,
)

__all__ = [
    "WAIT", "Ask", "MakeWork", "Pause", "Runner", "RunnerSetup", "Tell", "Work", "cpu_count", "default_workers",
]
