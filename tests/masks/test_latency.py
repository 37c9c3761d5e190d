"""The latency table against a slow reading of the same grids, and what a search relies on."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.masks.latency import (
    Fit,
    FitError,
    Floats,
    Grid,
    LatencyTable,
    LayerTimes,
    Machine,
)
from tests.hand_made import make_residual

MACHINE = Machine(
    device="cpu", name="a", threads=1, batch=4, dtype="float32", layout="contiguous", torch="2"
)
SEEDS = st.integers(0, 10_000)


def draw_grid(rng: np.random.Generator, first_end: int, second_end: int) -> Grid:
    """Return a grid over a few random widths that rises by random steps."""
    axes = [
        tuple(sorted({end, *rng.integers(1, end + 1, size=int(rng.integers(0, 4))).tolist()}))
        for end in (first_end, second_end)
    ]
    steps = rng.exponential(size=(len(axes[0]), len(axes[1]))) * (rng.random() < 0.9) + 0.01
    times = steps.cumsum(0).cumsum(1)
    return Grid(first=axes[0], second=axes[1], micros=tuple(map(tuple, times.tolist())))


def draw_table(seed: int) -> LatencyTable:
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(int(rng.integers(1, 5))):
        channels, rows, area = (int(rng.integers(1, end)) for end in (40, 40, 10))
        column = draw_grid(rng, rows, channels * area) if rng.random() < 0.8 else None
        dense = draw_grid(rng, channels, rows)
        positions = int(rng.integers(1, 50))
        shapes.append(LayerTimes(positions=positions, dense=dense, column=column))
    count = int(rng.integers(1, 8))
    layers = {f"layer{place}": int(rng.integers(len(shapes))) for place in range(count)}
    scale, per_element, fixed = rng.exponential(size=3).tolist()
    return LatencyTable(
        machine=MACHINE,
        align=int(rng.integers(1, 10)),
        shapes=tuple(shapes),
        layers=layers,
        fit=Fit(scale=scale, per_element=per_element / 100, fixed=fixed),
        error=FitError(median=0.05, high=0.1, models=3),
        dense_us=12.5,
    )


def draw_counts(table: LatencyTable, seed: int, points: int) -> list[Floats]:
    """Return channels, rows and columns within the layers, some whole and some not."""
    rng = np.random.default_rng(seed + 1)
    shapes = [table.shapes[place] for place in table.layers.values()]
    ends = np.array(
        [
            (one.dense.first[-1], one.dense.second[-1], one.column.second[-1] if one.column else 9)
            for one in shapes
        ]
    )
    counts = [1 + rng.random((points, len(shapes))) * (ends[:, part] - 1) for part in range(3)]
    return [np.where(rng.random(one.shape) < 0.5, np.rint(one), one) for one in counts]


def interpolate(grid: Grid, first: float, second: float) -> float:
    over = [np.interp(second, grid.second, row) for row in grid.micros]
    return float(np.interp(first, grid.first, over))


def predict_slowly(table: LatencyTable, point: list[Floats]) -> float:
    """Return the prediction for one point, layer by layer as the docstrings say."""
    total = table.fit.fixed
    for place, number in enumerate(table.layers.values()):
        shape = table.shapes[number]
        channels, rows, taken = (float(part[place]) for part in point)
        wide = min(np.ceil(channels / table.align) * table.align, shape.dense.first[-1])
        high = min(np.ceil(rows / table.align) * table.align, shape.dense.second[-1])
        times = [interpolate(shape.dense, wide, high)]
        if shape.column:
            times.append(interpolate(shape.column, high, taken))
        outputs = table.machine.batch * shape.positions * high
        total += table.fit.scale * min(times) + table.fit.per_element * outputs
    return float(total)


@given(SEEDS)
def test_prediction_is_that_of_the_grids(seed: int) -> None:
    table = draw_table(seed)
    counts = draw_counts(table, seed, points=6)

    predicted = table.predict(list(table.layers), *counts)

    for number, given_us in enumerate(predicted):
        wanted = predict_slowly(table, [part[number] for part in counts])
        assert given_us == pytest.approx(wanted, rel=1e-9)


@given(SEEDS)
def test_points_may_have_any_shape(seed: int) -> None:
    table, names = draw_table(seed), list(draw_table(seed).layers)
    counts = draw_counts(table, seed, points=6)

    flat = table.predict(names, *counts)

    blocks = table.predict(names, *(part.reshape(2, 3, -1) for part in counts))
    assert np.array_equal(blocks, flat.reshape(2, 3))
    assert table.predict(names, *(part[0] for part in counts)) == flat[0]


@given(SEEDS, st.integers(0, 2))
def test_more_of_anything_never_takes_less_time(seed: int, part: int) -> None:
    table = draw_table(seed)
    counts = draw_counts(table, seed, points=20)
    more = list(counts)
    more[part] = counts[part] + np.random.default_rng(seed).exponential(5, counts[part].shape)

    before = table.predict(list(table.layers), *counts)
    after = table.predict(list(table.layers), *more)

    assert (after >= before * (1 - 1e-12)).all()


@given(SEEDS)
def test_filters_up_to_the_next_aligned_width_are_free(seed: int) -> None:
    table = draw_table(seed)
    channels, rows, taken = draw_counts(table, seed, points=5)
    step = table.align

    wide, high = (np.ceil(one / step) * step for one in (channels, rows))

    names = list(table.layers)
    same = table.predict(names, wide, high, taken)
    assert np.allclose(table.predict(names, channels, rows, taken), same, rtol=1e-12)
    more = 1 + 1e-13  # as a bisection leaves whole counts
    assert np.allclose(table.predict(names, wide * more, high * more, taken), same, rtol=1e-12)


@given(SEEDS)
def test_a_table_comes_back_from_json(seed: int) -> None:
    table = draw_table(seed)
    counts = draw_counts(table, seed, points=5)

    back = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))

    assert back.to_json() == table.to_json()
    names = list(table.layers)
    assert np.array_equal(back.predict(names, *counts), table.predict(names, *counts))


@given(SEEDS)
def test_layers_may_be_asked_for_in_any_order(seed: int) -> None:
    table = draw_table(seed)
    counts = draw_counts(table, seed, points=5)
    names = list(table.layers)

    turned = table.predict(names[::-1], *(part[:, ::-1] for part in counts))
    first = table.predict(names[:1], *(part[:, :1] for part in counts))
    rest = table.predict(names[1:], *(part[:, 1:] for part in counts))

    assert np.allclose(turned, table.predict(names, *counts), rtol=1e-12)
    assert np.allclose(first + rest - table.fit.fixed, turned, rtol=1e-12)


def test_a_graph_is_bound_by_the_names_of_its_layers() -> None:
    graph = make_residual().graph
    names = [layer.name for layer in graph.layers]
    base = draw_table(0)
    table = LatencyTable(**{**vars(base), "layers": dict.fromkeys(names[::-1], 0)})
    counts = draw_counts(table, 0, points=5)

    bound = table.bind(graph)

    assert bound is table.bind(graph)
    assert np.array_equal(bound.predict(*counts), table.predict(names, *counts))
    with pytest.raises(SettingError, match="no times of layer"):
        base.bind(graph)


GOOD: dict[str, Any] = draw_table(3).to_json()
GRID = {"first": [1, 2], "second": [3], "micros": [[1.0], [2.0]]}


def change(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def change_grid(**changes: Any) -> dict[str, Any]:
    return change(shapes=[{"positions": 1, "dense": {**GRID, **changes}}], layers={"one": 0})


def test_the_changed_grid_is_good_by_itself() -> None:
    table = LatencyTable.from_json(change_grid())
    assert table.predict(["one"], *np.array([[1.0], [3.0], [3.0]])) > 0


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (change(version=2), "version"),
        (change(align=0), "align"),
        (change(surplus=1), "surplus"),
        ({name: one for name, one in GOOD.items() if name != "machine"}, "machine"),
        (change(layers={"one": 99}), "not there"),
        (change(layers={"one": -1}), "not there"),
        (change(fit={**GOOD["fit"], "scale": -1.0}), "0 or more"),
        (change(dense_us="long"), "dense_us"),
        (change_grid(first=[2, 1]), "rising"),
        (change_grid(first=[0, 1]), "rising"),
        (change_grid(second=[]), "rising"),
        (change_grid(micros=[[1.0]]), "each pair"),
        (change_grid(micros=[[1.0], [2.0, 3.0]]), "each pair"),
        (change_grid(micros=[[2.0], [1.0]]), "do not fall"),
        (change_grid(micros=[[0.0], [1.0]]), "above 0"),
        (change_grid(micros=[[1.0], [float("inf")]]), "above 0"),
        (change_grid(micros=[[float("nan")], [1.0]]), "above 0"),
    ],
)
def test_a_damaged_table_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LatencyTable.from_json(record)
