"""The command `compress`."""

import json
from pathlib import Path

import pytest

from autocompress.cli.compress import name_check
from tests.cli.conftest import Commands

SETTINGS = """
name = "small"
[task]
data = { name = "digits", train_limit = 256 }
train = { epochs = 1, batch_size = 64 }
device = "cpu"
[[method.steps]]
do = "prune"
density = 0.1
by = "one_shot"
[[method.steps]]
do = "retrain"
train = { epochs = 1, batch_size = 64 }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


def place(tmp_path: Path) -> tuple[str, str]:
    return "--set", f"run_dir={tmp_path / 'run'}"


def test_a_model_comes_out_that_evaluate_reads(
    settings: Path, tmp_path: Path, commands: Commands
) -> None:
    shown = commands.run("compress", str(settings), *place(tmp_path))

    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["0/2", "dense", "validation", lines[0].split()[-1]]
    assert "one_shot: density 0.1" in lines[1]
    assert "3,050 weights" in lines[2]
    assert "3,050 of 30,496 (10x)" in shown.out
    folder = next(line for line in lines if line.startswith("model: ")).removeprefix("model: ")
    told = commands.run("evaluate", folder, "--json")
    accuracy = json.loads(told.out)["test_accuracy"]
    assert f"test accuracy {accuracy:.4f}, read once" in shown.out


@pytest.mark.parametrize(
    ("data", "factory", "options"),
    [("", "", ""), ("a b", "", " --data 'a b'"), ("c", "m:make", " --data c --factory m:make")],
)
def test_the_command_shown_names_data_and_maker(data: str, factory: str, options: str) -> None:
    shown = name_check(Path("run"), data=data, factory=factory)

    assert shown == f"autocompress evaluate run{options}"


def test_the_same_again_is_done_at_once_and_speaks_json(
    settings: Path, tmp_path: Path, commands: Commands
) -> None:
    first = commands.run("compress", str(settings), *place(tmp_path), "--json")
    again = commands.run("compress", str(settings), *place(tmp_path), "--json")

    assert json.loads(first.out) == json.loads(again.out)
    assert json.loads(first.out)["metrics"]["kept_weights"] == 3050
    assert "validation" in first.err


def test_a_compact_file_comes_with_it(settings: Path, tmp_path: Path, commands: Commands) -> None:
    file = tmp_path / "small.acz"

    shown = commands.run("compress", str(settings), *place(tmp_path), "--pack", str(file))
    told = commands.run("evaluate", str(file), "--json")
    wrong = commands.run("compress", str(settings), *place(tmp_path), "--pack", "small.zip")

    assert f"packed: {file}, {file.stat().st_size:,} bytes" in shown.out
    accuracy = json.loads(told.out)["test_accuracy"]
    assert f"test accuracy {accuracy:.4f}, read once" in shown.out
    assert wrong.code == 1
    assert "--pack: want a name ending in .acz, got 'small.zip'" in wrong.err


def test_a_metric_that_is_lost_is_exit_code_3(
    settings: Path, tmp_path: Path, commands: Commands
) -> None:
    hopeless = '[[method.steps]]\ndo = "prune"\nweights = 40\nby = "one_shot"\n'
    retrain = '[[method.steps]]\ndo = "retrain"\ntrain = { epochs = 0.1, learning_rate = 1e-9 }\n'
    head, tail = SETTINGS.split("[[method.steps]]", 1)
    text = f"{head}[method]\nworst_metric = 0.3\n[[method.steps]]{tail}{hopeless}{retrain}"
    settings.write_text(text)

    shown = commands.run("compress", str(settings), *place(tmp_path))

    assert shown.code == 3
    assert "a step fell below method.worst_metric = 0.3; this is the last" in shown.out
    assert "3,050 of 30,496 (10x)" in shown.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method.steps=[]", "method.steps: want one step or more"),
        ('method.steps=[{ do = "prune", weigths = 9 }]', "did you mean 'weights'"),
        ('method.steps=[{ do = "quantize", layers = ["conv9"] }]', "no layer 'conv9'"),
        ("method.distil.share=0", "method.distil: no such setting; did you mean 'distill'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    settings: Path, tmp_path: Path, commands: Commands, change: str, message: str
) -> None:
    shown = commands.run("compress", str(settings), *place(tmp_path), "--set", change)

    assert shown.code == 1
    assert message in shown.err
    assert shown.err.count("\n") == 1
