"""What the JSON files of a run folder must hold to be read back: damaged ones are refused where they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from niwaki.search.files import read_json
from niwaki.search.outcome import KEY, Kind
from niwaki.spaces.errors import InputError

T = TypeVar("T", bound=BaseModel)

Whole = Annotated[int, Field(ge=0, lt=2**63)]
Key = Annotated[str, Field(pattern=f"^{KEY.pattern}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(max_length=1000)]


class _Open(BaseModel):
    """Keys that are not named here may be there: a newer version wrote them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class CostFigures(_Open):
    macs: Whole
    params: Whole
    bytes: Whole
    latency_ms: Size | None = None
    memory_bytes: Whole | None = None


class EntryMetrics(_Open):
    __pydantic_extra__: dict[str, float]

    accuracy: Share


class TeacherFacts(_Open):
    name: Text
    cost: CostFigures
    accuracy: Share


class Facts(_Open):
    """``facts.json``."""

    space: Text
    precision: Text
    layout: Text
    data: Text
    classes: Annotated[int, Field(ge=2, lt=2**31)]
    shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1)]
    mean: list[float]
    std: list[float]
    teacher: TeacherFacts
    limits: dict[Text, Size]
    target: Text | None


class TestedTeacher(TeacherFacts):
    test_accuracy: Share


class CandidateFile(_Open):
    widths: dict[Text, Annotated[int, Field(ge=1, lt=2**63)]]
    skipped: list[Text] = []
    sparsity: dict[Text, Text] = {}


class EntryFile(_Open):
    """One model of the front. Its name and its trials become folders, so they must look like the keys of jobs."""

    name: Key
    kind: Kind
    level: Annotated[float, Field(gt=0)]
    candidate: CandidateFile
    cost: CostFigures
    predicted_ms: Size | None
    speed_up: Size | None
    metrics: EntryMetrics
    trials: Annotated[list[Key], Field(min_length=1)]


class DroppedCandidate(_Open):
    candidate: Text
    latency_ms: Size


class FrontFile(_Open):
    """``front.json``."""

    name: Text
    teacher: TestedTeacher
    limits: dict[Text, Size]
    budget: dict[Text, Text]
    members: Annotated[list[EntryFile], Field(min_length=1)]
    baselines: list[EntryFile]
    dropped: list[DroppedCandidate]


class MeasuredFile(_Open):
    """``measured.json``."""

    ms: dict[Text, Annotated[float, Field(gt=0)]]
    noisy: list[Text]


class Environment(_Open):
    """``env.json``."""

    versions: dict[Text, Any]


class SpaceGroup(_Open):
    name: Text
    units: Whole


class SpaceFile(_Open):
    """``space.json``, as far as it is read: a run derives its space anew."""

    groups: list[SpaceGroup]


class CardFile(_Open):
    """``export/<name>/card.json``."""

    formats: dict[Text, Any]


class LatencySample(_Open):
    held_out: float
    ms: Size


class LatencyError(_Open):
    model_config = ConfigDict(extra="forbid")

    median: float
    p90: float
    spearman: float
    samples: Whole


class LatencyFile(_Open):
    """``latency.json``, as far as a report shows it."""

    source: dict[Text, Any]
    samples: list[LatencySample]
    error: LatencyError


def read_checked(path: Path, kind: type[T]) -> dict[str, Any]:
    """The JSON object in ``path``, which holds what ``kind`` asks for; InputError naming file, key and value if not."""
    data: dict[str, Any] = read_json(path)
    try:
        TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"]) or path.stem
        raise InputError(f"{path}: {key!a:.200}: {wrong['msg']}, got {wrong['input']!r:.100}") from None
    return data
