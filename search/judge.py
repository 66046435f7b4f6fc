"""The end of a run: the front among the finished models, latency of the baselines, and the test split, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from niwaki.distill import accuracy
from niwaki.search.context import RunFolder, device_of
from niwaki.search.events import Listener, Notice, PhaseProgress
from niwaki.search.files import read_json, write_json_atomic, write_text_atomic
from niwaki.search.front import Entry, baselines_of, front_of, join, spread, to_csv
from niwaki.search.models import Models
from niwaki.search.phases import Phases, RunError
from niwaki.search.schedule import Schedule
from niwaki.search.subject import Subject, phase
from niwaki.search.threads import torch_threads


def judge(phases: Phases, schedule: Schedule, folder: RunFolder, listener: Listener) -> None:
    """Write ``front.json`` and ``front.csv``; RunError where no finished model keeps the budget."""
    subject = phases.subject
    finished = [o for o in schedule.of("final", "uniform", "random") if o.complete]
    measured = phases.measure([o.job.candidate for o in finished])
    if subject.bench is not None:
        subject.bench.close()
    entries = join(finished, measured.ms, subject.cost)
    front = front_of(entries, subject.limits)
    if not front:
        raise RunError(_no_front(phases, schedule))
    _notices(phases, schedule, measured.noisy, listener)
    front, baselines, teacher_test = _tested(front, baselines_of(entries), subject, folder, listener)
    teacher = read_json(folder.facts)["teacher"] | {"test_accuracy": teacher_test}
    content = {
        "schema": 1, "name": subject.config.run.name, "teacher": teacher, "limits": dict(subject.limits.values),
        "budget": {k: str(v) for k, v in subject.config.budget.model_dump(exclude_none=True).items()},
        "members": [e.to_json() for e in front], "baselines": [e.to_json() for e in baselines],
        "dropped": [{"candidate": key, "latency_ms": ms} for key, ms in phases.dropped.items()],
    }
    write_text_atomic(folder.path / "front.csv", to_csv([*front, *baselines]))
    write_json_atomic(folder.front, content)  # last: its presence says that the run has been judged


def _tested(
    front: Sequence[Entry], baselines: Sequence[Entry], subject: Subject, folder: RunFolder, listener: Listener
) -> tuple[list[Entry], list[Entry], float]:
    """The one look at the test split: the front, the baselines beside it, every repeat, and the teacher."""
    device, total = device_of(subject.config.run.device), len(front) + len(baselines) + 1
    models = Models(folder, subject.teacher, subject.space)
    found: list[Entry] = []
    with phase("test", listener, total) as detail, torch_threads(subject.threads):
        for done, entry in enumerate([*front, *baselines], start=1):
            tests = [accuracy(models.load(key).to(device), subject.data, "test") for key in entry.trials]
            found.append(replace(entry, metrics={**entry.metrics, **spread("test_accuracy", tests)}))
            listener(PhaseProgress("test", done, total))
        teacher = accuracy(subject.teacher.to(device), subject.data, "test")
        subject.teacher.cpu()
        best = max(e.metrics["test_mean"] for e in found[: len(front)])
        detail.append(f"teacher {teacher:.2%}, best of the front {best:.2%}")
    return found[: len(front)], found[len(front) :], teacher


def _notices(phases: Phases, schedule: Schedule, noisy: Sequence[str], listener: Listener) -> None:
    failed = [o for o in schedule.outcomes if not o.complete]
    if failed:
        reason = (failed[-1].error or "").strip().splitlines()[-1]
        listener(Notice(f"{len(failed)} trials failed; the last, {failed[-1].key}: {reason}"))
    for key, ms in phases.dropped.items():
        limit = phases.subject.limits.values["latency"]
        listener(Notice(f"candidate {key} left out: measured latency {ms:.3g} ms, the budget is {limit:.3g} ms"))
    if noisy:
        listener(Notice(f"{len(noisy)} latencies are noisy (rounds differed by more than 5 %): use a quiet machine"))


def _no_front(phases: Phases, schedule: Schedule) -> str:
    failed = [o for o in schedule.outcomes if not o.complete]
    reasons = [f"{len(failed)} of {len(schedule.outcomes)} trials failed"] if failed else []
    if phases.dropped:
        limit = phases.subject.limits.values["latency"]
        least = min(phases.dropped.values())
        reasons.append(
            f"measured latency broke the budget of {limit:.3g} ms for all {len(phases.dropped)} candidates "
            f"(the fastest took {least:.3g} ms)"
        )
    last = f"; the last error:\n{failed[-1].error}" if failed else ""
    return f"no finished model keeps the budget: {'; '.join(reasons) or 'no candidate was trained'}{last}"
