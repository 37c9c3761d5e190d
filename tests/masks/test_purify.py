import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SettingError
from autocompress.masks.cost import count_masks
from autocompress.masks.mask import Masks, apply_masks_, full_masks, parameter_masks
from autocompress.masks.project import measure_energies
from autocompress.masks.purify import PurifySettings, count_readers, cut_below, propagate, purify
from tests.hand_made import IMAGE, MAKERS, draw_masks, make_residual, make_sequential


@pytest.mark.parametrize("maker", MAKERS)
@given(seed=st.integers(0, 1000))
def test_propagation_is_idempotent_and_only_removes(maker: str, seed: int) -> None:
    graph = MAKERS[maker]().graph
    masks = draw_masks(graph, seed, 0.4)

    once = propagate(graph, masks)
    twice = propagate(graph, once)

    assert torch.equal(once.units, twice.units)
    assert not (once.units & ~masks.units).any()
    for name, columns in once.columns.items():
        assert torch.equal(columns, twice.columns[name])
        assert not (columns & ~masks.columns[name]).any()


@pytest.mark.parametrize("maker", MAKERS)
@given(seed=st.integers(0, 1000))
def test_propagation_leaves_the_outputs_of_a_model(maker: str, seed: int) -> None:
    made = MAKERS[maker]()
    masks = draw_masks(made.graph, seed, 0.4)
    made.model.double().eval()
    images = torch.randn(2, *IMAGE, dtype=torch.float64)
    apply_masks_(made.model, parameter_masks(made.graph, masks, made.model))
    wanted = made.model(images)

    propagated = propagate(made.graph, masks)
    apply_masks_(made.model, parameter_masks(made.graph, propagated, made.model))

    # What propagation removes is read by nothing, or is zero already.
    torch.testing.assert_close(made.model(images), wanted)


def test_what_nobody_reads_dies_in_every_producer() -> None:
    graph = make_residual().graph
    columns = {name: mask.clone() for name, mask in full_masks(graph).columns.items()}
    columns["last"][9:18] = False  # All nine columns of unit 1.

    masks = propagate(graph, Masks(torch.ones(graph.units, dtype=torch.bool), columns))

    assert masks.units.tolist() == [True, False, True, True, True, True, True]


def test_a_group_that_nobody_reads_keeps_its_units() -> None:
    graph = make_residual().graph
    columns = {name: mask.clone() for name, mask in full_masks(graph).columns.items()}
    columns["last"][:] = False

    masks = propagate(graph, Masks(torch.ones(graph.units, dtype=torch.bool), columns))

    assert masks.units[:4].all()
    assert count_readers(graph, masks)[:4].sum() == 0


def test_cut_removes_only_what_is_below_the_threshold_and_never_everything() -> None:
    made = make_sequential()
    energies = measure_energies(made.graph, made.model)
    masks = full_masks(made.graph)

    same = cut_below(made.graph, energies, masks, {})
    most = cut_below(made.graph, energies, masks, {"filters/0": 1e6, "columns/3": 1e6})

    assert torch.equal(same.units, masks.units)
    assert int(most.units[:4].sum()) == 1
    assert all(bool(columns.any()) for columns in most.columns.values())


def test_purification_shrinks_within_the_tolerance() -> None:
    made = make_sequential()
    energies = measure_energies(made.graph, made.model)
    start = full_masks(made.graph)
    weights = count_masks(made.graph, start).weights

    def measure(masks: Masks) -> float:
        return count_masks(made.graph, masks).weights / weights  # Losing all weights loses 1.

    settings = PurifySettings(evaluations=80, tolerance=0.3)
    masks, thresholds = purify(made.graph, energies, start, settings, measure=measure, seed=0)

    assert 0.7 <= measure(masks) < 0.95
    assert thresholds


def test_without_evaluations_only_dead_paths_go() -> None:
    made = make_sequential()
    masks = draw_masks(made.graph, 3, 0.5)
    settings = PurifySettings(evaluations=0)

    energies = measure_energies(made.graph, made.model)
    found, thresholds = purify(
        made.graph, energies, masks, settings, measure=lambda _: 1.0, seed=0
    )

    assert torch.equal(found.units, propagate(made.graph, masks).units)
    assert thresholds == {}


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="purify"):
        PurifySettings(tolerance=-1.0)
    with pytest.raises(SettingError, match=r"purify\.resource"):
        PurifySettings(resource="latency")


def test_a_metric_that_is_no_number_removes_nothing() -> None:
    made = make_sequential()
    energies = measure_energies(made.graph, made.model)
    start = full_masks(made.graph)
    metrics = iter([1.0])

    masks, thresholds = purify(
        made.graph,
        energies,
        start,
        PurifySettings(evaluations=20, tolerance=0.3),
        measure=lambda _: next(metrics, float("nan")),
        seed=0,
    )

    assert torch.equal(masks.units, propagate(made.graph, start).units)
    assert thresholds == {}
