import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from autocompress.errors import SettingError
from autocompress.evaluate.settings import EvaluateSettings
from autocompress.settings import (
    change_settings,
    flatten_settings,
    hash_settings,
    parse_settings,
    read_settings,
    settings_to_json,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    epochs: float = 2.0
    kind: Literal["sgd", "adam"] = "adam"

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise SettingError(f"inner.epochs: want a value above 0, got {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 3
    inner: Inner = field(default_factory=Inner)
    limit: float | None = None
    layers: tuple[str, ...] = ()
    options: dict[str, int | float | str | bool] = field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_becomes_the_dataclass(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'name = "a"\nlimit = 1\nlayers = ["x", "y"]\n[inner]\nepochs = 3\n[options]\nwidth = 4\n',
    )

    outer = read_settings(Outer, path)

    assert outer == Outer(
        name="a",
        limit=1.0,
        layers=("x", "y"),
        inner=Inner(epochs=3.0),
        options={"width": 4},
    )


def test_overrides_win_and_are_read_as_toml(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\ncount = 1\n')
    overrides = ["count=7", "inner.kind=sgd", "name=b c", "options.flag=true", 'layers=["z"]']

    outer = read_settings(Outer, path, overrides)

    assert outer == Outer(
        name="b c", count=7, inner=Inner(kind="sgd"), options={"flag": True}, layers=("z",)
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("coutn=1", "coutn: no such setting; did you mean 'count'"),
        ("inner.epoch=1", r"inner\.epoch: no such setting; did you mean 'epochs'"),
        ("zzz=1", "zzz: no such setting; known here: count, inner"),
        ('count="1"', "count: input should be a valid integer, got '1'"),
        ("count=1.0", "count: .*integer"),
        ("inner.epochs=0", r"^inner\.epochs: want a value above 0, got 0"),
        ("inner.kind=lbfgs", r"inner\.kind: .*'sgd' or 'adam'"),
        ("count", "want KEY.KEY=VALUE"),
        ("name.x=1", "'name' is a value, not a table"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_settings(Outer, write(tmp_path, 'name = "a"'), [override])


def test_a_missing_setting_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="name: this setting has no default"):
        read_settings(Outer, None)
    with pytest.raises(SettingError, match="no such settings file"):
        read_settings(Outer, tmp_path / "absent.toml")


def test_settings_survive_json_and_hash_alike() -> None:
    outer = Outer(name="a", inner=Inner(epochs=3), layers=("x",))

    again = parse_settings(Outer, settings_to_json(outer))

    assert again == outer
    assert hash_settings(again) == hash_settings(outer)
    assert hash_settings(Outer(name="b")) != hash_settings(Outer(name="c"))
    assert flatten_settings(settings_to_json(outer))["inner.epochs"] == 3


def test_tables_read_back_are_the_same_tables() -> None:
    settings = EvaluateSettings()  # Its defaults hold whole numbers for floats.

    record = settings_to_json(settings)
    again = settings_to_json(parse_settings(EvaluateSettings, record))

    assert json.dumps(again) == json.dumps(record)


def test_changes_by_dotted_key_are_read_as_strictly_as_a_file() -> None:
    outer = Outer(name="a", limit=2.0, options={"width": 4})

    changed = change_settings(outer, {"inner.epochs": 5, "count": 1})

    assert changed == Outer(
        name="a", limit=2.0, options={"width": 4}, count=1, inner=Inner(epochs=5.0)
    )
    assert change_settings(outer, {}) == outer
    for key, value, error in (
        ("inner.epoch", 5, "did you mean 'epochs'"),
        ("inner.epochs", 0, "inner.epochs: want a value above 0"),
        ("count", "many", "count: "),
        ("name.first", 1, "'name' is a value, not a table"),
        ("inner.", 1, "want KEY.KEY=VALUE"),
    ):
        with pytest.raises(SettingError, match=error):
            change_settings(outer, {key: value})
