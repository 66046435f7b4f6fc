"""What may be cut in a model, what a cut costs, and the cutting itself."""

from niwaki.spaces.carve import carve
from niwaki.spaces.cost import Costs, LayerRow
from niwaki.spaces.count import count
from niwaki.spaces.derive import derive
from niwaki.spaces.elastic import Elastic
from niwaki.spaces.errors import InputError
from niwaki.spaces.explain import GroupRow, SpaceReport, explain
from niwaki.spaces.mask import mask
from niwaki.spaces.memory import library_overhead, measured_peak
from niwaki.spaces.options import SpaceOptions
from niwaki.spaces.space import Space
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.types import Block, Candidate, Cost, Fixed, Group, Kept, Slice, Tap, Variable

__all__ = [
    "Block",
    "Candidate",
    "Cost",
    "Costs",
    "Elastic",
    "Fixed",
    "Group",
    "GroupRow",
    "InputError",
    "Kept",
    "LayerRow",
    "Slice",
    "Space",
    "SpaceOptions",
    "SpaceReport",
    "Sparsity",
    "Tap",
    "Variable",
    "carve",
    "count",
    "derive",
    "explain",
    "library_overhead",
    "mask",
    "measured_peak",
]
