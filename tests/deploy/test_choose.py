"""The choice of forms, with times that are made up: nothing here depends on real speed."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.deploy.choose import (
    AGAIN,
    AGAIN_SHORT,
    FormCache,
    FormKey,
    choose_form,
    choose_forms,
    pick_fastest,
)
from autocompress.deploy.forms import list_forms
from autocompress.deploy.measure import Timing
from autocompress.shrink.columns import ColumnConv2d, make_column_layer


@dataclass
class Stopwatch:
    """Says that ``fastest`` takes half of the time, and counts how often it is asked."""

    fastest: str
    seconds: float = 1.0
    asked: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def __call__(
        self, models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        self.asked.append((tuple(inputs.shape), turns))
        for model in models.values():
            model(inputs)
        return {
            name: Timing(seconds=(self.seconds * (0.5 if name == self.fastest else 1.0),))
            for name in models
        }


def make_layer(seed: int = 0, columns: int = 9) -> ColumnConv2d:
    order = torch.randperm(36, generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(36, dtype=torch.bool)
    kept[order[:columns]] = True
    made = make_column_layer(nn.Conv2d(4, 3, 3, padding=1), kept).eval()
    assert isinstance(made, ColumnConv2d)
    return made


MAPS = torch.randn(2, 4, 6, 6)


@torch.no_grad()
@pytest.mark.parametrize("name", list_forms(make_layer(), MAPS))
def test_the_fastest_form_is_chosen(name: str) -> None:
    choice = choose_form(make_layer(), MAPS, measure=Stopwatch(name))

    assert choice.name == name
    assert type(choice.module) is type(list_forms(make_layer(), MAPS)[name])
    assert set(choice.timings) == set(list_forms(make_layer(), MAPS))


def test_a_gain_within_the_noise_is_none() -> None:
    def time(**seconds: float) -> dict[str, Timing]:
        return {name: Timing(seconds=(value,)) for name, value in seconds.items()}

    assert pick_fastest(time(plain=1.0, rows=0.99, flat=1.2)) == "plain"
    assert pick_fastest(time(plain=1.0, rows=0.96, flat=0.95)) == "flat"


def test_the_best_few_are_measured_again_short_calls_more_often() -> None:
    slow, fast = Stopwatch("rows"), Stopwatch("rows", seconds=1e-4)

    choose_form(make_layer(), MAPS, measure=slow, turns=3)
    choose_form(make_layer(), MAPS, measure=fast, turns=3)

    assert [turns for _, turns in slow.asked] == [3, 3 * AGAIN]
    assert [turns for _, turns in fast.asked] == [3, 3 * AGAIN_SHORT]


def test_the_second_comparison_decides() -> None:
    calls: list[set[str]] = []

    def measure(
        models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        assert len(inputs) == 2
        assert turns > 0
        calls.append(set(models))
        order = ["rows", "flat", "plain"] if len(calls) == 1 else ["flat", "rows", "plain"]
        times = {name: 1.0 + order.index(name) for name in order}
        return {name: Timing(seconds=(times.get(name, 9.0),)) for name in models}

    choice = choose_form(make_layer(), MAPS, measure=measure)

    assert choice.name == "flat"
    assert calls[1] == {"plain", "rows", "flat"}


def test_a_layer_of_the_same_kind_is_not_measured_again() -> None:
    cache, watch = FormCache(), Stopwatch("rows")

    first = choose_form(make_layer(), MAPS, cache=cache, measure=watch)
    second = choose_form(make_layer(), MAPS, cache=cache, measure=watch)

    assert len(watch.asked) == 2
    assert (first.name, second.name, second.timings) == ("rows", "rows", {})
    assert second.module is not first.module


def test_what_matters_for_the_time_is_in_the_key() -> None:
    layer, last = make_layer(), MAPS.contiguous(memory_format=torch.channels_last)
    whole = make_layer(columns=36)
    keys = [FormKey.of(layer, MAPS), FormKey.of(layer, last), FormKey.of(layer, MAPS[:1])]
    keys += [FormKey.of(layer, MAPS.double()), FormKey.of(whole, MAPS)]
    keys += [FormKey.of(nn.Conv2d(4, 3, 3, padding=one), MAPS) for one in (0, 1)]
    keys += [
        replace(keys[0], threads=99),
        replace(keys[0], torch="0"),
        replace(keys[0], device=""),
    ]
    crop = make_layer()
    crop.columns = torch.arange(9, dtype=torch.int32)
    keys.append(FormKey.of(crop, MAPS))

    assert len({key.digest for key in keys}) == len(keys)
    assert FormKey.of(make_layer(), MAPS).digest == keys[0].digest


def test_a_file_remembers_for_another_process(tmp_path: Path) -> None:
    path, watch = tmp_path / "new" / "forms.json", Stopwatch("flat")
    first, second = FormCache(path=path), FormCache(path=path)
    choose_form(make_layer(), MAPS, cache=first, measure=watch)
    choose_form(make_layer(), MAPS[:1], cache=second, measure=watch)

    read = FormCache(path=path)

    assert len(read.names) == 2
    assert choose_form(make_layer(), MAPS, cache=read, measure=watch).name == "flat"
    assert len(watch.asked) == 4
    assert [one.name for one in path.parent.iterdir()] == ["forms.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[1]",
        b'{"format": "another", "names": {}}',
        b'{"format": "autocompress forms 1"}',
        b'{"format": "autocompress forms 1", "names": {"a": 1}}',
        b'{"format": "autocompress forms 1", "names": 5}',
    ],
)
def test_a_file_that_is_not_ours_is_left_out_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "forms.json"
    path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        cache = FormCache(path=path)
        choose_form(make_layer(), MAPS, cache=cache, measure=Stopwatch("rows"))

    assert str(path) in caplog.text
    assert list(json.loads(path.read_text())["names"].values()) == ["rows"]


def test_a_remembered_form_that_there_is_not_is_measured_anew() -> None:
    cache, watch = FormCache(), Stopwatch("rows")
    cache.add(FormKey.of(make_layer(), MAPS), "of a later version")

    choice = choose_form(make_layer(), MAPS, cache=cache, measure=watch)

    assert choice.name == "rows"
    assert len(watch.asked) == 2


class Net(nn.Module):
    """Has a layer under two names that is called twice, one that is not, and one with a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.again = self.twice = make_layer_of_own()
        self.idle = nn.Linear(4, 4)
        self.hooked = nn.Linear(4, 4)
        self.hooked.register_forward_hook(lambda module, args, output: output + 1)
        self.last = nn.Linear(4, 2)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.again(self.twice(self.first(maps).relu_())[:1])
        return self.last(self.hooked(maps.mean((2, 3))))


def make_layer_of_own() -> nn.Module:
    return make_column_layer(nn.Conv2d(4, 4, 3, padding=1), torch.arange(36) % 3 > 0)


@torch.no_grad()
@pytest.mark.parametrize("fastest", ["rows", "conv", "channels_last", "plain"])
def test_every_layer_of_a_model_gets_its_form(fastest: str) -> None:
    model, watch = Net(), Stopwatch(fastest)
    maps = torch.randn(2, 3, 5, 5)
    before = {name: type(module) for name, module in model.named_modules()}

    made, names = choose_forms(model, maps, measure=watch)

    model.eval()
    torch.testing.assert_close(made(maps), model(maps), rtol=1e-5, atol=1e-5)
    assert set(names) == {"first", "again", "last"}
    assert fastest in names.values()
    assert made.again is made.twice
    assert [shape for shape, _ in watch.asked[::2]] == [(2, 3, 5, 5), (2, 4, 5, 5), (1, 4)]
    assert before == {name: type(module) for name, module in model.named_modules()}
    assert not any(module._forward_pre_hooks for module in made.modules())
    assert not made.training


@torch.no_grad()
def test_a_layer_is_measured_on_what_the_form_before_it_gives() -> None:
    model = nn.Sequential(make_layer_of_own(), make_layer_of_own()).eval()
    maps = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    seen: list[bool] = []

    def measure(
        models: Mapping[str, nn.Module], inputs: Tensor, *, turns: int
    ) -> dict[str, Timing]:
        seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
        return Stopwatch("flat")(models, inputs, turns=turns)

    assert not model[0](maps).is_contiguous(memory_format=torch.channels_last)
    choose_forms(model, maps, measure=measure)

    assert seen
    assert all(seen)


@torch.no_grad()
def test_a_model_may_be_one_layer() -> None:
    layer = make_layer()

    made, names = choose_forms(layer, MAPS, measure=Stopwatch("rows"))

    assert names == {"": "rows"}
    torch.testing.assert_close(made(MAPS), layer(MAPS), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_real_times_choose_some_form() -> None:
    made, names = choose_forms(Net(), torch.randn(1, 3, 5, 5), cache=FormCache())

    assert set(names) == {"first", "again", "last"}
    assert made(torch.randn(3, 3, 6, 6)).shape == (1, 2)
