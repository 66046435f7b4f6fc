"""The latency model on layers whose true latency is known, and its algebra against independent implementations."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.spaces import latency
from niwaki.spaces.errors import InputError
from niwaki.spaces.latency import LatencyModel
from niwaki.spaces.least_squares import nnls, spearman


@dataclass
class Row:
    op: str
    kernel: int
    stride: int
    positions: int
    inputs: np.ndarray
    outputs: np.ndarray
    groups: np.ndarray
    macs: np.ndarray
    weights: np.ndarray
    alive: np.ndarray


class Chain:
    """Five 3x3 convolutions with ReLUs on 16 x 16 positions, the last two removable, and a linear layer.

    A row of the matrix: five widths, blocks kept.
    """

    digest = "chain"

    def layers(self, matrix):
        table = np.asarray(matrix)
        ones = np.ones(len(table), dtype=np.int64)
        inputs, rows = 3 * ones, []
        for i in range(5):
            outputs, alive = table[:, i], table[:, 5] > i - 3
            macs = np.where(alive, 256 * 9 * inputs * outputs, 0)
            rows.append(Row("conv", 9, 1, 256, inputs, outputs, ones, macs, 9 * inputs * outputs, alive))
            rows.append(Row("elementwise", 1, 1, 256, outputs, outputs, ones, 0 * ones, 0 * ones, alive))
            inputs = np.where(alive, outputs, inputs)
        rows.append(Row("linear", 1, 1, 1, inputs, 10 * ones, ones, 10 * inputs, 10 * inputs, ones > 0))
        return rows

    def sample(self, count, seed):
        rng = np.random.default_rng(seed)
        return np.concatenate([rng.integers(4, 65, (count, 5)), rng.integers(0, 3, (count, 1))], axis=1)


def _truth(matrix):
    """Milliseconds by hand: 10 us a layer, 20 GMAC/s on outputs rounded up to 16, 8 Gelement/s of traffic."""
    total = []
    for *widths, kept in np.asarray(matrix).tolist():
        inputs, ms = 3, 0.0
        for width in widths[: 3 + kept]:
            ms += 0.02 + 256 * 9 * inputs * (-(-width // 16) * 16) / 20e6 + 256 * (inputs + 3 * width) / 8e6
            inputs = width
        total.append(ms + 0.01 + 10 * inputs * 1.6 / 20e6 + (inputs + 10) / 8e6)
    return np.array(total)


@pytest.mark.parametrize("count", [12, 24])
def test_it_recovers_a_machine_it_can_express(count):
    space = Chain()
    train, test = space.sample(count, 0), space.sample(200, 1)
    model = LatencyModel.fit(space, train, _truth(train), 1.0)
    off = np.abs(model.predict(test) / _truth(test) - 1)
    assert np.median(off) < 0.02
    assert spearman(model.predict(test), _truth(test)) > 0.99
    assert model.error.samples == count
    assert model.error.median < 0.05


def test_noise_of_the_machine_is_averaged_not_learned():
    space = Chain()
    train, test = space.sample(24, 0), space.sample(200, 1)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.03, len(train)))
    model = LatencyModel.fit(space, train, _truth(train) * noise, 1.0)
    off = np.abs(model.predict(test) / _truth(test) - 1)
    assert np.median(off) < 0.03
    assert np.quantile(off, 0.9) < 0.08
    # the error it reports is about the error there is: the noise of the held-out measurements included
    assert 0.01 < model.error.median < 0.06


def test_models_shallower_than_any_calibrated_one_are_not_charged_for_missing_layers():
    space = Chain()
    train = space.sample(24, 0)
    train[:, 5] = 2
    shallow = space.sample(100, 1)
    shallow[:, 5] = 0
    model = LatencyModel.fit(space, train, _truth(train), 1.0)
    assert abs(np.median(model.predict(shallow) / _truth(shallow)) - 1) < 0.05


@pytest.mark.parametrize("features", latency.FEATURES)
def test_every_feature_set_is_finite_non_negative_and_ignores_dead_layers(features):
    space = Chain()
    matrix = space.sample(30, 3)
    changed = matrix.copy()
    changed[:, 4] = 4  # the last convolution, which is dead where fewer than two removable layers are kept
    dead = matrix[:, 5] < 2
    for before, after in zip(
        latency.FEATURES[features](space.layers(matrix)).values(),
        latency.FEATURES[features](space.layers(changed)).values(),
        strict=True,
    ):
        assert before.shape == (30,)
        assert np.isfinite(before).all()
        assert (before >= 0).all()
        assert np.array_equal(before[dead], after[dead])


def test_prediction_is_vectorised_and_ratios_are_to_the_teacher():
    space = Chain()
    matrix = space.sample(16, 0)
    model = LatencyModel.fit(space, matrix, _truth(matrix), anchor_ms=2.5)
    together = model.predict(matrix)
    assert together.shape == (16,)
    assert [model.predict(row[None])[0] for row in matrix] == pytest.approx(together.tolist())
    assert np.allclose(model.ratio(matrix) * 2.5, together)


def test_json_reads_back_and_predicts_the_same():
    space = Chain()
    matrix = space.sample(16, 0)
    model = LatencyModel.fit(space, matrix, _truth(matrix), 2.5, {"target": "torch:threads=1"})
    back = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), space)
    assert back.error == model.error
    assert back.source == {"target": "torch:threads=1"}
    assert np.array_equal(back.predict(matrix), model.predict(matrix))
    assert back.samples[3] == {"candidate": matrix[3].tolist(), "ms": _truth(matrix)[3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "other"}, "belongs to space other"),
        ({"features": "magic"}, "unknown features 'magic'"),
        ({"error": {"mean": 1}}, "damaged"),
        ({"weights": None}, "damaged"),
    ],
)
def test_json_of_another_space_or_damaged_is_refused(change, message):
    space = Chain()
    matrix = space.sample(8, 0)
    data = LatencyModel.fit(space, matrix, _truth(matrix), 1.0).to_json()
    with pytest.raises(InputError, match=message):
        LatencyModel.from_json(data | change, space)


@pytest.mark.parametrize("ms", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, float("nan")]])
def test_measurements_that_cannot_be_fitted_are_refused(ms):
    with pytest.raises(InputError, match="at least 4 positive measurements"):
        LatencyModel.fit(Chain(), Chain().sample(len(ms), 0), ms, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 10_000))
def test_nnls_agrees_with_scipy(rows, columns, seed):
    rng = np.random.default_rng(seed)
    matrix = np.concatenate([rng.normal(size=(rows, columns)), 0.1 * np.eye(columns)])
    target = rng.normal(size=rows + columns)
    expected, residual = scipy.optimize.nnls(matrix, target)
    got = nnls(matrix, target)
    assert (got >= 0).all()
    assert np.linalg.norm(matrix @ got - target) == pytest.approx(residual, abs=1e-9)
    assert got == pytest.approx(expected, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_agrees_with_scipy(pairs):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) == 0.0
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)
