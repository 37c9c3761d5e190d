from pathlib import Path

import pytest
from torch import nn

from autocompress.errors import CouplingError, SettingError
from autocompress.search.space import (
    SpaceSettings,
    check_names,
    filter_range,
    read_space,
    resolve_space,
    write_space,
)
from autocompress.zoo.make import ModelSettings, make_model
from tests.fakes import make_small_graph
from tests.hand_made import make_residual


def test_a_written_file_lists_every_choice_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "spaces" / "small.toml"
    settings = SpaceSettings(filter_density=(0.1, 0.9), columns_multiple_of=4, leave_alone=("a",))

    write_space(path, make_small_graph(), settings, title="A small net")
    space = read_space(path)

    assert space.filters == {"a": (1.0, 1.0), "b": (0.1, 0.9)}
    assert space.columns == {"a": (1.0, 1.0), "b": (0.0, 1.0), "fc": (0.0, 1.0)}
    assert space.columns_multiple_of == 4
    assert space.leave_alone == ("a",)
    assert path.read_text().startswith("# A small net\n")


def test_settings_beside_a_file_win(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    write_space(path, make_small_graph(), SpaceSettings(filters_multiple_of=2))

    space = resolve_space(
        SpaceSettings(file=str(path), filters={"a": (0.5, 1.0)}, columns_multiple_of=8)
    )

    assert space.file == ""
    assert space.filters == {"a": (0.5, 1.0), "b": (0.0, 1.0)}
    assert (space.filters_multiple_of, space.columns_multiple_of) == (2, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SpaceSettings(filters={"aa": (0.5, 1.0)}), r"space\.filters: no 'aa'.*mean 'a'"),
        (SpaceSettings(filters={"out": (0.5, 1.0)}), r"space\.filters: no 'out'"),
        (SpaceSettings(columns={"x": (0.5, 1.0)}), r"space\.columns: no 'x'.*known: a, b, fc"),
        (SpaceSettings(leave_alone=("x",)), r"space\.leave_alone: no 'x'"),
    ],
)
def test_unknown_names_are_refused(settings: SpaceSettings, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_names(settings, make_small_graph())


def test_any_layer_of_a_group_may_name_it() -> None:
    graph = make_residual().graph
    settings = SpaceSettings(filters={"right": (0.25, 0.5)})
    group = graph.group_by_name["left"]

    check_names(settings, graph)

    assert filter_range(settings, group.name, group.producers) == (0.25, 0.5)


@pytest.mark.parametrize("other", [(0.25, 0.75), (0.5, 0.5)])
def test_layers_of_one_group_cannot_ask_for_different_filters(other: tuple[float, float]) -> None:
    settings = SpaceSettings(filters={"left": (0.25, 0.5), "right": other})

    with pytest.raises(CouplingError, match="group 'left' must keep the same") as error:
        check_names(settings, make_residual().graph)

    assert set(error.value.kept) == {"left", "right"}


@pytest.mark.parametrize("wrong", [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (0.0, 0.0)])
def test_wrong_ranges_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match=r"space\.columns\.b: want \[low, high\]"):
        SpaceSettings(columns={"b": wrong})


def test_wrong_multiples_and_nested_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('file = "other.toml"\n')

    with pytest.raises(SettingError, match="cannot name another"):
        read_space(path)
    with pytest.raises(SettingError, match=r"space\.columns_multiple_of: want 1 or more"):
        SpaceSettings(columns_multiple_of=0)


@pytest.mark.parametrize(
    "path", sorted(Path("search_spaces").glob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_files_name_what_the_models_of_the_zoo_have(path: Path) -> None:
    net = path.stem.removesuffix("_weights")
    shape = {"digits_cnn": (1, 8, 8), "lenet5": (1, 28, 28)}.get(net, (3, 32, 32))
    model = make_model(ModelSettings(name=net), shape, 10)
    names = {name for name, module in model.named_modules() if hasattr(module, "weight")}

    space = read_space(path)

    assert {*space.filters, *space.columns, *space.weights, *space.layer_bits} <= names
    assert set(space.columns) == {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
