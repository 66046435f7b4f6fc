"""The whole job, from a configuration to an exported front; and the same job continued after any kind of stop."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from niwaki.search.checks import check_choices, check_folder, runner_class
from niwaki.search.config import Config, load_config, to_yaml
from niwaki.search.context import InHand, RunFolder, device_of
from niwaki.search.environment import environment
from niwaki.search.equip import driver_context, equip
from niwaki.search.events import Listener, RunFinished, RunStarted, TrialProgress, ignore
from niwaki.search.examine import examine
from niwaki.search.files import DISK_FULL, write_json_atomic, write_tensors_atomic
from niwaki.search.finalists import measurer
from niwaki.search.judge import judge
from niwaki.search.lesson import lesson_of
from niwaki.search.observers import observed
from niwaki.search.outcome import Job, Outcome
from niwaki.search.phases import Phases, RunError
from niwaki.search.progress import ProgressFile
from niwaki.search.result import Result
from niwaki.search.reuse import check_base, known_candidates, take_over
from niwaki.search.runners import RunnerSetup, default_workers
from niwaki.search.schedule import Schedule
from niwaki.search.settings import RunConfig
from niwaki.search.starts import starts, worth_of
from niwaki.search.store import RunStore
from niwaki.search.subject import Subject, folder_of, phase
from niwaki.search.threads import torch_threads
from niwaki.search.trial import TrialWork

_EXAMPLES = 16
_FULL = tuple(f"[Errno {code}]" for code in DISK_FULL)


def search(config: Config, listener: Listener = ignore, in_hand: InHand | None = None) -> Result:
    """Run a search from the beginning.

    Args:
        config: everything that is to be done; ``run.folder`` (or ``runs/<run.name>``) must not exist.
        listener: told what happens, from the calling thread.
        in_hand: model or data objects where the configuration says ``in-hand``.

    Raises:
        InputError: the configuration, the data, the weights or the budgets are wrong; nothing was written.
        RunError: the run itself failed; what is finished stays in its folder.
        KeyboardInterrupt: passes through; :func:`resume` goes on from there.
    """
    in_hand = in_hand or InHand()
    check_choices(config)
    check_base(config)
    folder = RunFolder(folder_of(config))
    check_folder(folder.path)
    listener(RunStarted(folder.path, config.run.name, resumed=False, kept=0))
    with torch_threads(1):
        subject = examine(config, folder, in_hand, listener)
        store = RunStore.create(folder.path, to_yaml(subject.config))
        with store.lock(), ProgressFile(folder.path, listener) as told, observed(subject, store, told) as told:
            take_over(subject.config, folder, subject)
            return _Run(subject, folder, store, in_hand, told).drive()


def resume(
    path: str | Path, listener: Listener = ignore, in_hand: InHand | None = None, run: RunConfig | None = None
) -> Result:
    """Go on with a run that was stopped, however it was: finished trials are kept, the others are done.

    ``run`` says where trials run from now on, since another machine or cluster may be at hand; what a run comes to does
    not depend on that, and seed, name and folder stay as they are.

    Raises as :func:`search`; InputError also where ``path`` is no run folder, or another process drives it.
    """
    in_hand = in_hand or InHand()
    folder = RunFolder(Path(path))
    store = RunStore.open(folder.path)
    config = load_config(store.config)
    if run is not None:
        own = config.run.model_dump(include={"seed", "name", "folder", "base"})
        config = config.model_copy(update={"run": run.model_copy(update=own)})
    check_choices(config)
    with store.lock(), torch_threads(1):
        store.adopt()
        kept = sum(o.complete for o in store.outcomes())
        listener(RunStarted(folder.path, config.run.name, resumed=True, kept=kept))
        subject = examine(config, folder, in_hand, listener)
        with ProgressFile(folder.path, listener) as told, observed(subject, store, told) as told:
            return _Run(subject, folder, store, in_hand, told).drive()


@dataclass(frozen=True, eq=False)
class _Run:
    """A run that this process drives: examined, and its folder locked."""

    subject: Subject
    folder: RunFolder
    store: RunStore
    in_hand: InHand
    listener: Listener

    def drive(self) -> Result:
        """Do what the folder does not hold yet."""
        started = time.perf_counter()
        if not (self.folder.path / "env.json").is_file():
            write_json_atomic(self.folder.path / "env.json", environment())
        if not self.folder.front.is_file():
            equip(self.subject, self.folder, self.listener)
            self.write_example()
            measure, start_at = measurer(self.subject, self.folder), starts(self.subject, self.folder)
            phases = Phases(self.subject, measure, worth_of(self.subject, self.folder), self.listener, start_at)
            phases.known = known_candidates(self.subject.config, self.subject)
            phases.lesson = lesson_of(driver_context(self.subject, self.folder))
            outcomes = self.train(phases)
            judge(phases, outcomes, self.folder, self.listener)
        result = Result(self.folder.path, self.in_hand)
        self.export(result)
        with phase("report", self.listener) as detail:
            detail.append(str(result.report()))
        shutil.rmtree(self.folder.shared, ignore_errors=True)
        self.listener(RunFinished(self.folder.path, len(result.front), time.perf_counter() - started))
        return result

    def train(self, phases: Phases) -> Schedule:
        """All trials, through the runner."""
        config, subject = self.subject.config, self.subject
        schedule = Schedule(self.store, phases, lambda job: subject.costing.cost(job.candidate), self.listener)
        run, gpu = config.run, device_of(config.run.device).type == "cuda"
        gpus = run.gpus_per_trial if run.gpus_per_trial is not None else float(gpu)
        workers = run.workers
        if workers is None and run.address is None:
            workers = default_workers(run.cpus_per_trial, gpus, torch.cuda.device_count())
        setup = RunnerSetup(
            TrialWork(self.folder.path.resolve(), self.in_hand), self.folder.path / ".runner", workers,
            run.cpus_per_trial, gpus, run.retries, run.resources, run.hang_after, run.address, run.share, run.verbose,
        )

        def follow(job: Job, done: int, total: int) -> None:
            self.listener(TrialProgress(job, done, total))

        def tell(outcome: Outcome) -> None:
            if any(sign in (outcome.error or "") for sign in _FULL):  # no fault of the candidate's: not recorded
                raise RunError(f"a trial could not write: {(outcome.error or '').strip().splitlines()[-1]}")
            schedule.tell(outcome)

        runner_class(config)(setup).run(schedule.ask, tell, follow)
        return schedule

    def write_example(self) -> None:
        """Real images for exports, so that they need no data."""
        if not self.folder.example.is_file():
            part = self.subject.data.validation
            images, _ = part.batch(torch.arange(min(_EXAMPLES, len(part))))
            write_tensors_atomic(self.folder.example, {"images": self.subject.data.normalise(images.cpu())})

    def export(self, result: Result) -> None:
        """The best members, each in its folder under ``export/``; what is there already is kept."""
        config = self.subject.config.export
        members = result.front[: config.members] if config.formats else ()
        with phase("export", self.listener, len(members)) as detail:
            for member in members:
                target = self.folder.path / "export" / member.name
                if not target.exists():
                    member.export(target, config.formats, config.pad)
            detail.append(f"{len(members)} models in {', '.join(config.formats)}, each read back and compared")
