"""Trained students of a run, rebuilt from tensors: carved from the teacher again, never unpickled."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from niwaki.search.context import RunFolder
from niwaki.search.files import read_json, read_tensors, reading
from niwaki.search.links import refuse_links
from niwaki.search.outcome import Job
from niwaki.search.trial import KEPT, STUDENT
from niwaki.spaces import Space, carve


@dataclass(frozen=True, eq=False)
class Models:
    """Loads models of a run folder.

    Attributes:
        teacher: with the weights of ``teacher.safetensors``, on the CPU.
        space: derived from it.
    """

    folder: RunFolder
    teacher: nn.Module
    space: Space

    def load(self, key: str) -> nn.Module:
        """The student that trial ``key`` ended with, in eval mode on the CPU; InputError where its files are gone."""
        trial = self.folder.store.trial(key)
        refuse_links(trial)
        with reading(trial / "job.json"):
            job = Job.from_json(read_json(trial / "job.json"))
        with reading(trial / KEPT):
            student = carve(self.teacher, self.space, job.candidate, read_tensors(trial / KEPT))
        with reading(trial / STUDENT):
            student.load_state_dict(read_tensors(trial / STUDENT))
        return student.eval()
