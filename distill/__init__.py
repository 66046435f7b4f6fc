"""Teachers, data, losses and the one training loop."""

from niwaki.distill.answers import Answers, answers
from niwaki.distill.augment import AUGMENTATIONS, Augmentation
from niwaki.distill.data import Data, DataSpec, assemble, from_datasets, load
from niwaki.distill.evaluate import accuracy, main_logits, recalibrate
from niwaki.distill.fit import FitProgress, FitResult, FitRun, fit
from niwaki.distill.numerics import Numerics
from niwaki.distill.precision import resolve
from niwaki.distill.recipe import Recipe
from niwaki.distill.splits import ArraySplit, LazySplit, Rows, Split
from niwaki.distill.teachers import build, check, load_weights, names

__all__ = [
    "AUGMENTATIONS",
    "Answers",
    "ArraySplit",
    "Augmentation",
    "Data",
    "DataSpec",
    "FitProgress",
    "FitResult",
    "FitRun",
    "LazySplit",
    "Numerics",
    "Recipe",
    "Rows",
    "Split",
    "accuracy",
    "answers",
    "assemble",
    "build",
    "check",
    "fit",
    "from_datasets",
    "load",
    "load_weights",
    "main_logits",
    "names",
    "recalibrate",
    "resolve",
]
