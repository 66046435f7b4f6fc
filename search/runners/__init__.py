"""Runners: where jobs are done. One runner a file; the file's name is its name in a configuration."""

from niwaki.search.runners._base import (
    WAIT,
    Ask,
    Follow,
    MakeWork,
    Pause,
    Pulse,
    Runner,
    RunnerSetup,
    Tell,
    Work,
    cpu_count,
    default_workers,
    nobody,
)

__all__ = [
    "WAIT", "Ask", "Follow", "MakeWork", "Pause", "Pulse", "Runner", "RunnerSetup", "Tell", "Work", "cpu_count",
    "default_workers", "nobody",
]
