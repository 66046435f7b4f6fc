"""The latency model on layers whose true latency is known, and its algebra against independent implementations."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.spaces.errors import InputError
from niwaki.spaces.latency import LatencyModel, Sample
from niwaki.spaces.latency_features import FEATURES
from niwaki.spaces.least_squares import fit_relative, spearman


@dataclass
class Row:
    name: str
    op: str
    kernel: int
    stride: int
    positions: np.ndarray
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
            places, none = 256 * ones, 0 * ones
            rows += [
                Row(f"conv{i}", "conv", 9, 1, places, inputs, outputs, ones, macs, 9 * inputs * outputs, alive),
                Row(f"relu{i}", "elementwise", 1, 1, places, outputs, outputs, ones, none, none, alive),
            ]
            inputs = np.where(alive, outputs, inputs)
        rows.append(Row("head", "linear", 1, 1, ones, inputs, 10 * ones, ones, 10 * inputs, 10 * inputs, ones > 0))
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


def _samples(matrix, noise=1.0):
    return [Sample(tuple(row), ms) for row, ms in zip(matrix.tolist(), (_truth(matrix) * noise).tolist(), strict=True)]


@pytest.mark.parametrize("count", [12, 24])
def test_it_recovers_a_machine_it_can_express(count):
    space = Chain()
    train, test = space.sample(count, 0), space.sample(200, 1)
    model = LatencyModel.fit(space, _samples(train), 1.0)
    off = np.abs(model.predict(test) / _truth(test) - 1)
    assert np.median(off) < 0.02
    assert spearman(model.predict(test), _truth(test)) > 0.99
    assert model.error.samples == count
    assert model.error.median < 0.05


def test_noise_of_the_machine_is_averaged_not_learned():
    space = Chain()
    train, test = space.sample(24, 0), space.sample(200, 1)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.03, len(train)))
    model = LatencyModel.fit(space, _samples(train, noise), 1.0)
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
    model = LatencyModel.fit(space, _samples(train), 1.0)
    assert abs(np.median(model.predict(shallow) / _truth(shallow)) - 1) < 0.05


@pytest.mark.parametrize("features", FEATURES)
def test_every_feature_set_is_finite_non_negative_and_ignores_dead_layers(features):
    space = Chain()
    matrix = space.sample(30, 3)
    changed = matrix.copy()
    changed[:, 4] = 4  # the last convolution, which is dead where fewer than two removable layers are kept
    dead = matrix[:, 5] < 2
    for before, after in zip(
        FEATURES[features](space.layers(matrix)).values(),
        FEATURES[features](space.layers(changed)).values(),
        strict=True,
    ):
        assert before.shape == (30,)
        assert np.isfinite(before).all()
        assert (before >= 0).all()
        assert np.array_equal(before[dead], after[dead])


def test_prediction_is_vectorised_and_ratios_are_to_the_teacher():
    space = Chain()
    matrix = space.sample(16, 0)
    model = LatencyModel.fit(space, _samples(matrix), anchor_ms=2.5)
    together = model.predict(matrix)
    assert together.shape == (16,)
    assert [model.predict(row[None])[0] for row in matrix] == pytest.approx(together.tolist())
    assert np.allclose(model.ratio(matrix) * 2.5, together)


def test_json_reads_back_and_predicts_the_same():
    space = Chain()
    matrix = space.sample(16, 0)
    model = LatencyModel.fit(space, _samples(matrix), 2.5, {"target": "torch:threads=1"})
    back = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), space)
    assert back.error == model.error
    assert back.source == {"target": "torch:threads=1"}
    assert np.array_equal(back.predict(matrix), model.predict(matrix))
    assert back.samples == model.samples
    assert back.samples[3].candidate == tuple(matrix[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "other"}, "belongs to space other"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"sums": {"features": "magic", "weights": {}}}, "unknown features 'magic'"),
        ({"error": {"mean": 1}}, "damaged"),
        ({"samples": [3]}, "damaged"),
    ],
)
def test_json_of_another_space_or_damaged_is_refused(change, message):
    space = Chain()
    matrix = space.sample(8, 0)
    data = LatencyModel.fit(space, _samples(matrix), 1.0).to_json()
    with pytest.raises(InputError, match=message):
        LatencyModel.from_json(data | change, space)


@pytest.mark.parametrize("ms", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, float("nan")]])
def test_measurements_that_cannot_be_fitted_are_refused(ms):
    with pytest.raises(InputError, match="at least 4 positive measurements"):
        LatencyModel.fit(Chain(), [Sample((20, 20, 20, 20, 20, 1), m) for m in ms], 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 30), st.integers(1, 5), st.integers(0, 10_000))
def test_weights_are_the_best_non_negative_ones(rows, columns, seed):
    """No small change of the weights lowers the relative squared error: the conditions of Kuhn and Tucker."""
    rng = np.random.default_rng(seed)
    matrix, ms = rng.uniform(0.1, 1, (rows, columns)), rng.uniform(0.5, 2, rows)
    weights = fit_relative(matrix, ms, 0.0)
    relative = matrix / ms[:, None]
    slope = relative.T @ (relative @ weights - 1)
    assert (weights >= 0).all()
    assert np.abs(slope[weights > 0]).max(initial=0) < 1e-7
    assert slope.min(initial=0) > -1e-7


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_the_correlation_of_mean_ranks(pairs):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    ranks = [[(sum(w < v for w in x) + sum(w <= v for w in x) + 1) / 2 for v in x] for x in (a, b)]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) == 0.0
    else:
        assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


class Profiled(Chain):
    """A machine whose single operations are known, and whose whole models take 20 % more than their sum."""

    def times(self, row):
        stairs = 256 * 9 * row.inputs * (-(-row.outputs // 16) * 16) / 20e6
        slow = np.where(row.inputs < 33, 2.5, 1.0)  # another algorithm from 33 inputs on: no sum of features knows it
        return np.where(row.alive, 0.01 + (stairs * slow if row.op == "conv" else 1e-4 * row.inputs), np.nan)

    def samples(self, matrix):
        rows = [r for r in self.layers(matrix) if r.op != "elementwise"]  # fused away
        times = {r.name: self.times(r) for r in rows}
        total = 1.2 * np.nansum(list(times.values()), axis=0)
        return [
            Sample(tuple(row), float(total[n]), operations={k: float(t[n]) for k, t in times.items() if t[n] == t[n]})
            for n, row in enumerate(matrix.tolist())
        ]


def test_a_profile_teaches_what_sums_of_features_cannot_express():
    space = Profiled()
    train, test = space.sample(40, 0), space.sample(200, 1)
    truth = np.array([s.ms for s in space.samples(test)])
    model = LatencyModel.fit(space, space.samples(train), 1.0)
    assert model.method == "operations"
    off = np.abs(model.predict(test) / truth - 1)
    plain = LatencyModel.fit(space, [Sample(s.candidate, s.ms) for s in space.samples(train)], 1.0)
    assert plain.method == "sums"
    assert np.median(off) < 0.6 * np.median(np.abs(plain.predict(test) / truth - 1))
    assert np.median(off) < 0.06
    back = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), space)
    assert np.array_equal(back.predict(test), LatencyModel.from_json(back.to_json(), space).predict(test))
    assert back.predict(test) == pytest.approx(model.predict(test), rel=1e-2)


def test_more_samples_where_the_search_goes_make_it_better_there():
    space = Chain()
    wide = space.sample(12, 0)
    narrow = space.sample(60, 1)
    narrow[:, :5] = narrow[:, :5] // 8 + 1
    before = LatencyModel.fit(space, _samples(wide), 1.0)
    after = before.with_samples(_samples(narrow[:20]))
    unseen = narrow[20:]
    errors = [np.median(np.abs(m.predict(unseen) / _truth(unseen) - 1)) for m in (before, after)]
    assert errors[1] < errors[0]
    assert len(after.samples) == 32
