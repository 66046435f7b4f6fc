"""What each ATen operation does to dimensions: one file per family, each with a table ``RULES``."""

from __future__ import annotations

from niwaki.spaces.passes import Rule
from niwaki.spaces.rules import concat, conv, elementwise, linear, norm, pool, reshape

ALL: dict[str, Rule] = {
    name: rule
    for module in (concat, conv, elementwise, linear, norm, pool, reshape)
    for name, rule in module.RULES.items()
}
