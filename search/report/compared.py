"""compare.html: hypervolume against training images, one line a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import plotly.graph_objects as go

from niwaki.search.files import write_text_atomic

_COLOURS = ("#2f7d4f", "#b5472f", "#3f6fa8", "#c08a1e", "#6b4f8a", "#22302a")


class Searched(Protocol):
    """What is drawn of a search."""

    @property
    def proposer(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def curve(self) -> tuple[tuple[int, float], ...]: ...


def figure(found: Sequence[Searched]) -> go.Figure:
    """Steps: the hypervolume stays until a trial adds to it."""
    made = go.Figure()
    names = list(dict.fromkeys(f.proposer for f in found))
    for search in found:
        colour = _COLOURS[names.index(search.proposer) % len(_COLOURS)]
        first = next(f for f in found if f.proposer == search.proposer) is search
        made.add_trace(go.Scatter(
            x=[images for images, _ in search.curve], y=[volume for _, volume in search.curve], mode="lines",
            line={"color": colour, "shape": "hv"}, name=search.proposer, legendgroup=search.proposer, showlegend=first,
            hovertemplate=f"{search.proposer}, seed {search.seed}<br>%{{x:,}} images: %{{y:.4f}}<extra></extra>",
        ))  # fmt: skip
    made.update_layout(template="plotly_white", font={"family": "system-ui, sans-serif"})
    made.update_xaxes(title="Training images spent", rangemode="tozero")
    made.update_yaxes(title="Hypervolume of the models found (validation)", rangemode="tozero")
    return made


def write_page(found: Sequence[Searched], path: Path) -> Path:
    """One self-contained page; returns its path."""
    write_text_atomic(path, str(figure(found).to_html(include_plotlyjs=True, full_html=True)))
    return path
