from math import prod

import numpy as np
import pytest

from autocompress.store.pack.classes import MOST_CLASSES, View, list_classes, list_views
from tests.store.pack import coding


@pytest.mark.parametrize("shape", [shape for shape in coding.SHAPES if prod(shape)])
def test_views_are_of_all_entries(shape: tuple[int, ...]) -> None:
    views = list_views(shape)
    assert len(views) == (3 if len(shape) > 2 else 1)
    for view in views:
        assert view.rows * view.columns == prod(shape)
        assert view.units * view.unit == view.columns


def test_blocks_are_a_partition() -> None:
    view = View(rows=5, columns=6, unit=2)
    rows, units = np.array([1, 0, 2, 1, 0], np.uint16), np.array([0, 1, 0], np.uint16)
    seen = np.zeros((5, 6), int)
    order = []
    for row_class, members, columns in view.blocks(rows, units):
        order.append(row_class)
        seen[np.ix_(members, columns)] += 1
        assert set(rows[members]) == {row_class}
        assert len(set(units[columns // 2])) == 1
    assert order == [0, 0, 1, 1, 2, 2]
    assert (seen == 1).all()


@pytest.mark.parametrize("unit", [1, 3])
def test_classes_that_are_there_are_found(unit: int) -> None:
    random = np.random.default_rng(0)
    rows, units = random.integers(0, 2, 200), random.integers(0, 2, 100)
    shares = np.array([[0.0, 0.2], [0.5, 0.05]])
    wide = np.repeat(units, unit)
    mask = random.random((200, len(wide))) < shares[rows][:, wide]
    view = View(rows=200, columns=len(wide), unit=unit)
    found = min(list_classes(mask, view), key=lambda each: each[2])
    for wanted, got in ((rows, found[0]), (units, found[1])):
        pairs = set(zip(wanted.tolist(), got.tolist(), strict=True))
        assert len({got for _, got in pairs}) == len(pairs) >= 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (20, 40)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_every_class_has_members(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(1).random(shape) < share
    view = View(rows=shape[0], columns=shape[1], unit=1)
    for rows, units, length in list_classes(mask, view):
        assert (len(rows), len(units)) == shape
        for classes in (rows, units):
            assert set(classes.tolist()) == set(range(int(classes.max()) + 1))
            assert classes.max() < MOST_CLASSES
        assert length >= 0
