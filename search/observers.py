"""Who hears of every outcome of a run: its Optuna study, always, and the trackers of its configuration."""

from __future__ import annotations

from functools import partial

from niwaki.search.aside import Aside, Told
from niwaki.search.config import Config
from niwaki.search.events import Listener
from niwaki.search.store import RunStore
from niwaki.search.study import RunStudy, StudySetup, study_name
from niwaki.search.study_url import check_url
from niwaki.search.subject import Subject
from niwaki.search.trackers import TrackerSetup, tracker_class


def check_observers(config: Config) -> None:
    """InputError where ``run.study`` or ``run.trackers`` names what does not exist here."""
    if config.run.study is not None:
        check_url(config.run.study)
    for name in config.run.trackers:
        tracker_class(name)


def observed(subject: Subject, store: RunStore, listener: Listener) -> Told:
    """``listener`` and the observers beside it, as a context manager around the run; ``store`` is locked."""
    config, known = subject.config, store.outcomes()
    name = study_name(store.folder, config.run.name)
    study = StudySetup(store, subject.space, subject.limits, name, config.run.study)
    asides = [Aside("run.study", partial(RunStudy, study))]
    for tracker in dict.fromkeys(config.run.trackers):
        setup = TrackerSetup(store.folder.resolve(), name, len(known))
        asides.append(Aside(f"tracker {tracker}", partial(tracker_class(tracker), setup)))
    return Told(listener, tuple(asides), known)
