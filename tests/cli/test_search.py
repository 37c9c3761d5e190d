"""One small search from the command line, from the dry run to a model chosen by hand."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Commands

SETTINGS = """
name = "tiny"

[task]
device = "cpu"
[task.train]
epochs = 2
[task.data]
train_limit = 256
[budget]
weights = 0.3
[search]
evaluations = 3
[rounds]
tolerance = 1.0
[evaluate.fast]
fidelity = "one_shot"
norm_batches = 1
[evaluate.round]
prune = { epochs = 0.5 }
retrain = { epochs = 0.5 }
[evaluate.full]
prune = { epochs = 0.5 }
retrain = { epochs = 0.5 }
final = { epochs = 0.5 }
purify = { evaluations = 2 }
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    return "tiny.toml"


def test_a_search_ends_with_a_front_a_report_and_a_model(
    settings: str, commands: Commands, tmp_path: Path
) -> None:
    first = commands.run("search", settings)
    again = commands.run("search", settings)
    other = commands.run("finalize", "tiny", "--trial", "0")

    assert (first.code, again.code, other.code) == (0, 0, 0), first.err + again.err + other.err
    assert "Pareto front of tiny" in first.out
    assert "runs/tiny/report.html" in first.out
    assert "is done" not in first.out
    assert "Reachable models" in first.out
    assert "Reachable models" not in again.out
    assert "The search of tiny is done" in again.out
    models = sorted(tmp_path.glob("runs/tiny/models/trial-*"))
    assert len(models) == 2
    assert f"model of {models[0].name.replace('-', ' ')}" in first.out
    best = tmp_path / "runs" / "tiny" / "models" / "best"
    assert best.resolve() in [one.resolve() for one in models]
    shown = commands.run("evaluate", str(models[0]), "--json")
    assert json.loads(shown.out)["weights_stored"] < 0.3 * 30_496


def test_a_dry_run_stores_nothing(settings: str, commands: Commands, tmp_path: Path) -> None:
    shown = commands.run("search", settings, "--dry-run")

    assert shown.code == 0
    assert "Reachable models" in shown.out
    assert "6 fast, 1 round, 1 full" in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_space_is_written_once(settings: str, commands: Commands, tmp_path: Path) -> None:
    first = commands.run("space", settings)
    again = commands.run("space", settings)
    forced = commands.run("space", settings, "--force")

    assert (first.code, again.code, forced.code) == (0, 1, 0)
    assert "[columns]" in (tmp_path / "search_spaces" / "digits_cnn.toml").read_text()
    assert "add --force" in again.err


def test_a_dense_model_is_trained_and_said(settings: str, commands: Commands) -> None:
    shown = commands.run("train", settings)

    assert "validation accuracy" in shown.out
    assert "runs/tiny/objects/" in shown.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "nothing.toml"], "nothing.toml: no such settings file"),
        (["search", "tiny.toml", "--set", "serch.evaluations=3"], "did you mean 'search'?"),
        (["search", "tiny.toml", "--set", "budget.weights=1.5"], "reaches only"),
        (["finalize", "tiny"], "want either --trial N or --top K"),
        (["resume", "tiny"], "no database at runs/tiny/study.db"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_an_error_is_one_sentence(arguments: list[str], sentence: str, commands: Commands) -> None:
    shown = commands.run(*arguments)

    assert shown.code == 1
    assert sentence in shown.err
    assert shown.err.count("\n") == 1


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow  # Starts two interpreters that load torch.
def test_ctrl_c_says_how_to_go_on(settings: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autocompress", "search", settings]
    many = [*command, "--set", "search.evaluations=400"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    search = subprocess.Popen(  # A shell's background job hands on that Ctrl-C is ignored.
        many,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - no thread runs yet that could hold a lock
    )
    database = tmp_path / "runs" / "tiny" / "study.db"
    while search.poll() is None and not database.exists():
        pass
    search.send_signal(signal.SIGINT)
    _, said = search.communicate(timeout=50)

    assert search.returncode == 130, said
    assert "go on with: autocompress search tiny.toml --set search.evaluations=400" in said
