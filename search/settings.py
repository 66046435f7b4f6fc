"""The sections of a run's configuration: one frozen pydantic model each, unknown keys forbidden."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from niwaki.spaces.errors import nearest

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Images = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
BudgetText = Annotated[str | None, BeforeValidator(lambda v: f"{v}" if isinstance(v, int | float) else v)]
Token = Annotated[str, BeforeValidator(lambda v: f"{v}" if isinstance(v, int | float) else v)]


class Section(BaseModel):
    """Base of every section: values are checked once and never change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``on`` and ``yes`` as true, which Python takes for the number 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false mean nothing here")
        return value


class DataConfig(Section):
    """Which data, and how they are split. ``source``: a file name in ``distill/sources``; ``options``: its fields.

    ``path`` is short for ``options.path``; relative paths start at the current directory.
    """

    source: str = "digits"
    path: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: Seed = 0
    limit: Annotated[int, Field(ge=2)] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class TrainConfig(Section):
    """One recipe for all trainings; ``rungs`` and ``final_images`` say for how many training images.

    ``rungs`` are cumulative: a candidate promoted from rung 0 to rung 1 trains ``rungs[1] - rungs[0]`` more. A first
    rung of 0 judges candidates untrained, which says much where they are refit (``criterion.refit``), little elsewhere.
    ``final_images`` too is counted over the whole life of a model, whatever its rungs have seen included.
    """

    rungs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (2_000, 6_000)
    final_images: Images = 20_000
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay: Literal["all", "weights"] = "all"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    augment: str = "none"
    loss: str = "hinton"
    loss_options: dict[str, Any] = Field(default_factory=dict)
    views: Count = 1
    """Augmented copies of the training set for which the teacher's answers are computed."""

    @model_validator(mode="after")
    def _ascending(self) -> TrainConfig:
        if list(self.rungs) != sorted(set(self.rungs)) or 1 in self.rungs:
            raise ValueError(f"rungs must ascend (0, or at least 2 images), got {list(self.rungs)}")
        if self.final_images < self.rungs[-1] + 2:
            raise ValueError(f"final_images ({self.final_images}) counts the rungs too: more than {self.rungs[-1]}")
        return self


class TeacherTraining(Section):
    """How the run trains the teacher itself when it is given without weights: labels only, the run's augmentation."""

    images: Images = 40_000
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    augment: str | None = None
    """The augmentation's name; None takes ``train.augment``."""


class TeacherConfig(Section):
    """The trained model: ``name`` as in ``niwaki.distill.build``, ``options`` for its builder.

    ``weights``: safetensors, or a torch file that loads with ``weights_only``; None: the run trains it.
    """

    name: str = "small_cnn"
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    train: TeacherTraining = Field(default_factory=TeacherTraining)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _step(value: Any) -> Any:
    if value == "auto":
        return value
    steps = value if isinstance(value, dict) else {"step": value}
    for step in steps.values():
        if not _whole(step):
            raise ValueError(f"expected auto, a whole number >= 1, or pattern: number for some groups, got {step!r}")
    return value


def _widths(value: Any) -> tuple[Any, ...]:
    """Numbers as they were written: 1 is one unit, 1.0 all of them."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("expected a list of widths")
    for width in value:
        if not _whole(width) and not (isinstance(width, float) and 0 < width <= 1):
            raise ValueError(f"expected units (1, 2, ...) or ratios in (0, 1], got {width!r}")
    return tuple(value)


Pattern = Annotated[str, Field(min_length=1)]
Step = Annotated[Any, PlainValidator(_step)]
Widths = Annotated[Any, PlainValidator(_widths)]
Tie = Annotated[
    tuple[Pattern, ...], Field(min_length=1), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)
]


class SpaceConfig(Section):
    """What may be searched: widths (``ratios`` of the full width), ``depth``, and ``sparsity`` patterns per layer.

    Attributes:
        step: widths are multiples of it; ``pattern: step`` for some groups only; ``auto``: the grid of the target where
            latency is budgeted, else 1.
        keep: patterns of groups or modules that stay whole.
        tie: each entry is a pattern of groups, or a list of them: all that it matches keep equally many units.
        widths: pattern of groups -> widths on offer instead of ``ratios``, as units or as ratios.
    """

    ratios: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    step: Step = "auto"
    least: Annotated[int, Field(ge=2)] = 4
    keep: tuple[Pattern, ...] = ()
    tie: tuple[Tie, ...] = ()
    widths: dict[Pattern, Widths] = Field(default_factory=dict)
    depth: bool = True
    sparsity: tuple[Token, ...] = ()


class BudgetConfig(Section):
    """Limits that hold together: ``3ms``, ``2MB``, ``500M``, or relative to the teacher: ``50%``."""

    latency: BudgetText = None
    macs: BudgetText = None
    params: BudgetText = None
    size: BudgetText = None
    memory: BudgetText = None
    """Peak of live activation tensors for one example."""

    @model_validator(mode="after")
    def _some(self) -> BudgetConfig:
        if not any((self.latency, self.macs, self.params, self.size, self.memory)):
            raise ValueError("at least one of latency, macs, params, size, memory must be set, e.g. 'macs: 50%'")
        return self


STARTS = ("uniform", "knapsack", "magnitude")


def _start(value: Any) -> Any:
    if value not in STARTS:
        raise ValueError(f"unknown start; {nearest(str(value), STARTS)}")
    return value


class SearchConfig(Section):
    """How candidates are proposed, promoted and chosen.

    Attributes:
        trials: candidates trained at the first rung.
        starts: what every proposer begins with, taking turns, for at most a quarter of the trials: ``uniform`` widths,
            ``knapsack``: least harm by the sensitivity of each cut alone, ``magnitude``: one threshold for all scores.
        levels: fractions of the budget that candidates are fitted to, in turn, so that one run spreads over a front.
        keep: share of a rung's candidates that is promoted to the next one.
        members: models trained to the end, at least one for each level.
        finish: ``continue`` trains finalists on from their last rung; ``fresh`` trains them anew from the carved
            teacher with one schedule, so that repeats share nothing; ``inherit`` leaves them as their last rung did.
        repeats: trainings of each of them, under different seeds.
        baselines: joined to the run on request: ``uniform`` widths (of groups that no residual stream shares, where
            that suffices), and ``random`` candidates at the budget.
    """

    proposer: str = "nsga2"
    options: dict[str, Any] = Field(default_factory=dict)
    trials: Count = 32
    starts: tuple[Annotated[str, BeforeValidator(_start)], ...] = STARTS
    levels: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0, 0.8, 0.6)
    keep: Fraction = 0.34
    members: Count = 4
    finish: Literal["continue", "fresh", "inherit"] = "continue"
    repeats: Count = 1
    baselines: tuple[Literal["uniform", "random"], ...] = ()


class CriterionConfig(Section):
    """Which units stay: a name from ``pruning/criteria``, its options, and the training images it may look at.

    ``sensitivity``: most training images on which the harm of each single cut is judged, where a start needs it.
    """

    name: str = "l1"
    options: dict[str, Any] = Field(default_factory=dict)
    images: Count = 1_024
    sensitivity: Count = 512
    refit: Annotated[int, Field(ge=0)] = 0
    """Training images on which a carved student's convolutions are refit to the teacher's before it is trained."""


class LatencyConfig(Section):
    """Where latency is measured. Without a latency budget it is measured only when ``target`` is set."""

    target: str | None = None
    samples: Annotated[int, Field(ge=4)] = 48
    """Candidates timed to fit the latency model."""
    seconds: Annotated[float, Field(gt=0)] = 0.25
    """Time spent on each of them, and on each finalist that is measured again."""
    rounds: Count = 8
    near: Annotated[int, Field(ge=0)] = 16
    """Further candidates timed where the budget binds: that is where the search will look."""
    tries: Count = 4
    """Measurements after which a finalist is near enough to its latency."""
    max_error: Fraction = 0.1
    """Largest median error (cross-validated) of a latency model that a search may rely on."""
    calibration: str | None = None
    """A run folder or latency.json with a model of the same space and target, used instead of measuring."""
    where: Literal["here", "cluster"] = "here"
    """``cluster``: on a node of the Ray cluster that carries the resource ``niwaki_target``."""


class RunConfig(Section):
    """Where and on what the run happens. ``workers`` None: as many as the machine's CPUs or GPUs allow."""

    name: str = "run"
    folder: str | None = None
    """None: ``runs/<name>``."""
    base: str | None = None
    """A run whose teacher, supernet, latency model and untrained scores are taken over."""
    runner: str = "tune"
    workers: Count | None = None
    cpus_per_trial: Count = 1
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """None: one where the machine has any. Fractions share one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a trial is tried again after its worker process died."""
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between two states that a trial writes down while it trains: a retry goes on from the latest."""
    hang_after: Annotated[float, Field(gt=0)] = 1_800.0
    """Seconds without a sign of life (a forward pass, a report) after which a trial has failed."""
    address: str | None = None
    """Of a Ray cluster that runs already: ``auto`` on one of its machines, or HOST:PORT. None: Ray is started here."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Ray's custom resources that a trial takes, such as ``{accelerator: 1}``."""
    share: Literal["auto", "folder", "store"] = "auto"
    """How workers on other machines get at the run folder: as a ``folder`` that they see too, or through Ray's object
    ``store``; ``auto`` finds out."""
    verbose: bool = False
    """Show what Ray prints."""
    seed: Seed = 0
    study: str | None = None
    """A team's database for the run's Optuna study, postgresql://me:${PASSWORD}@host/db; None: RUN/study.journal."""
    trackers: tuple[str, ...] = ()
    """Names from ``search/trackers``: where outcomes are sent as well."""

    @field_validator("name")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if value.strip(" .") and value.isprintable() and len(value.encode()) <= 200 and not {"/", "\\"} & set(value):
            return value
        raise ValueError("expected the name of a folder, of at most 200 printable characters, without slashes")


class ExportConfig(Section):
    """Formats (names from ``search/export``) written for the best ``members`` of the front.

    Attributes:
        pad: layers are filled up with zeros to multiples of it, or to what pays on the run's target (``auto``).
    """

    formats: tuple[str, ...] = ("onnx", "torch_export", "safetensors")
    members: Annotated[int, Field(ge=0)] = 3
    pad: Count | Literal["auto"] | None = None


class Config(Section):
    """Everything a run needs to know; ``config.yaml`` in a run folder is this, with nothing left out."""

    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    space: SpaceConfig = Field(default_factory=SpaceConfig)
    budget: BudgetConfig
    search: SearchConfig = Field(default_factory=SearchConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    criterion: CriterionConfig = Field(default_factory=CriterionConfig)
    latency: LatencyConfig = Field(default_factory=LatencyConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
