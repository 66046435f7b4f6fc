"""LSTM, GRU and plain recurrent nets, as torch calls them: all layers, directions and time steps in one operation.

A removed hidden unit is absent from the recurrence, which is not the same as reading zero at the output alone, so the
groups are inexact and the masked reference runs the whole operation over the kept units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Rule


@dataclass(frozen=True)
class _Cell:
    """The parameters of one layer in one direction; ``down`` is the projection of the state, if any."""

    first: bool
    ih: fx.Node
    hh: fx.Node
    biases: Sequence[fx.Node]
    down: fx.Node | None


def lstm(call: Call) -> None:
    """``(x, (h0, c0), params, has_biases, layers, dropout, train, bidirectional, batch_first)`` -> out, h, c."""
    h0, c0 = call.arg(1, "hx")
    _recurrent(call, 4, h0, c0)


def gru(call: Call) -> None:
    """As :func:`lstm` without a cell state: three gates."""
    _recurrent(call, 3, call.arg(1, "hx"), None)


def rnn(call: Call) -> None:
    """As :func:`gru` with a single gate."""
    _recurrent(call, 1, call.arg(1, "hx"), None)


def lstm_cell(call: Call) -> None:
    """``(x (B, I), (h, c), weight_ih, weight_hh, bias_ih, bias_hh)`` -> h, c: one step, one layer."""
    h, c = call.arg(1, "hx")
    _step(call, 4, call.dims(h), call.dims(c))


def gru_cell(call: Call) -> None:
    """As :func:`lstm_cell` without a cell state: three gates."""
    _step(call, 3, call.dims(call.arg(1, "hx")), None)


def rnn_cell(call: Call) -> None:
    """As :func:`gru_cell` with a single gate."""
    _step(call, 1, call.dims(call.arg(1, "hx")), None)


def _step(call: Call, gates: int, h: list[Dim], c: list[Dim] | None) -> None:
    x, biases = call.dims(call.node.args[0]), [b for b in call.node.args[4:6] if call.is_tensor(b)]
    cell = _Cell(True, call.arg(2, "w_ih"), call.arg(3, "w_hh"), biases, None)  # type: ignore[arg-type]
    if c is not None:
        call.unify(h[-1], c[-1])
    rows = algebra.merge([axes.new(gates, "gates of a recurrent cell"), h[-1]])
    _cell(call, cell, (x[-1], rows, h[-1], h[-1]))
    call.over_kept(h[-1])
    call.out(*[[*x[:-1], h[-1]] for _ in range(1 if c is None else 2)])


def _recurrent(call: Call, gates: int, h0: fx.Node, c0: fx.Node | None) -> None:
    """Hidden units (and the projected state, where there is one) are one dimension for all layers and directions:
    the initial states of all of them lie in one tensor."""
    x, ways = call.dims(call.node.args[0]), 2 if call.node.args[7] else 1
    h = call.dims(h0)
    c = h if c0 is None else call.dims(c0)
    state, hidden = h[-1], c[-1]
    rows = algebra.merge([axes.new(gates, "gates of a recurrent cell"), hidden])
    for dim in (h[0], c[0]):
        call.pin(dim, "layers and directions of a recurrent net")
    output = tuple(p for _ in range(ways) for p in state)
    cells = list(_cells(call, ways))
    if cells[0].down is None:
        call.unify(state, hidden)
    for cell in cells:
        _cell(call, cell, (x[-1] if cell.first else output, rows, hidden, state))
    call.over_kept(hidden, state)
    results = [[*x[:-1], output], h] + ([c] if c0 is not None else [])
    call.out(*results)


def _cells(call: Call, ways: int) -> Iterator[_Cell]:
    args: Any = call.node.args
    params, biases, layers = args[2], 2 if args[3] else 0, args[4]
    size = len(params) // (layers * ways)
    for i in range(0, len(params), size):
        p = params[i : i + size]
        down = p[2 + biases] if size > 2 + biases else None
        yield _Cell(i // size < ways, p[0], p[1], p[2 : 2 + biases], down)


def _cell(call: Call, cell: _Cell, widths: tuple[Dim, Dim, Dim, Dim]) -> None:
    """``weight_ih (G H, I)``, ``weight_hh (G H, S)``, biases ``(G H)``, ``weight_hr (S, H)`` where S is projected."""
    reads, rows, hidden, state = widths
    ih, hh = call.dims(cell.ih), call.dims(cell.hh)
    call.unify(ih[1], reads)
    call.unify(hh[1], state)
    for dim in (ih[0], hh[0], *(call.dims(b)[0] for b in cell.biases)):
        call.unify(dim, rows)
    call.carries(*cell.biases)
    _layer(call, cell.ih, ih)
    _layer(call, cell.hh, hh)
    if cell.down is not None:
        down = call.dims(cell.down)
        call.unify(down[0], state)
        call.unify(down[1], hidden)
        _layer(call, cell.down, down)


def _layer(call: Call, weight: fx.Node, dims: list[Dim]) -> None:
    """Roles and MACs of one matrix; no channel is noted, because the module's output is a tuple nobody can watch."""
    x, key = call.dims(call.node.args[0]), call.key(weight)
    if key is not None:
        call.analysis.producers.append((call.node, key, 0))
        call.analysis.consumers.add((key, 1))
    steps = [d for d in x[:-1] if not any(a.batch for a in axes.leaves(d))]
    call.row("linear", [*x[:-1], *dims], (dims[1], dims[0]), steps, weight=key)


RULES: dict[str, Rule] = {
    "aten.lstm.input": lstm,
    "aten.gru.input": gru,
    "aten.rnn_tanh.input": rnn,
    "aten.rnn_relu.input": rnn,
    "aten.lstm_cell.default": lstm_cell,
    "aten.gru_cell.default": gru_cell,
    "aten.rnn_tanh_cell.default": rnn_cell,
    "aten.rnn_relu_cell.default": rnn_cell,
}
