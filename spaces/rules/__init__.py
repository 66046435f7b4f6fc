"""What each ATen operation does to dimensions: one file per family, each with a table ``RULES``."""

from __future__ import annotations

from niwaki.spaces.passes import Rule
from niwaki.spaces.rules import (
    attention,
    concat,
    conv,
    elementwise,
    embedding,
    factories,
    linear,
    norm,
    pixel,
    pool,
    products,
    recurrent,
    reshape,
)

ALL: dict[str, Rule] = {
    name: rule
    for module in (
        attention,
        concat,
        conv,
        elementwise,
        embedding,
        linear,
        norm,
        pool,
        reshape,
        factories,
        pixel,
        products,
        recurrent,
    )
    for name, rule in module.RULES.items()
}
