"""What a run gives to proposers that train before they propose."""

from __future__ import annotations

from niwaki.search.context import RunFolder, device_of
from niwaki.search.files import read_tensors
from niwaki.search.proposers._setup import Lesson
from niwaki.search.subject import Subject


def lesson_of(subject: Subject, folder: RunFolder) -> Lesson:
    """The trained teacher, the training data and the criterion's scores; checkpoints go to the run folder."""
    config = subject.config
    return Lesson(
        subject.teacher, subject.data, read_tensors(folder.scores), folder.path, device_of(config.run.device),
        subject.threads, config.train.augment,
    )  # fmt: skip
