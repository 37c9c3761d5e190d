import json
from pathlib import Path

import pandas as pd
import pytest

from autocompress.cli import main
from autocompress.cli.tables import find_front_rows
from autocompress.errors import StudyError
from autocompress.evaluate.task import TaskSettings
from autocompress.search.spec import Settings, make_spec
from autocompress.search.storage import make_storage
from tests.cli.conftest import Commands
from tests.synthetic import make_study


def test_status_says_how_far_a_search_is(commands: Commands, storage: str) -> None:
    shown = commands.run("status", "synthetic", "--storage", storage)

    assert shown.code == 0
    assert "14 complete" in shown.out
    assert "model of trial 12" in shown.out


def test_pareto_shows_the_front_and_writes_it(
    commands: Commands, storage: str, tmp_path: Path
) -> None:
    files = {
        kind: tmp_path / "out" / f"front.{kind}" for kind in ("csv", "parquet", "json", "png")
    }
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]

    shown = commands.run("pareto", "synthetic", "--storage", storage, *options)

    assert shown.code == 0
    assert "Pareto front" in shown.out
    rows = pd.read_parquet(files["parquet"])
    assert set(rows["number"]) >= {12, 13}
    assert pd.read_csv(files["csv"])["number"].tolist() == rows["number"].tolist()
    assert len(json.loads(files["json"].read_text())) == len(rows)
    assert files["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--objectives", "beauty"], "got 'beauty'"),
        (["--objectives", ""], "got none"),
        (["--stage", "last"], "--stage: want one of models, fast, round, full, all, got 'last'"),
        (["--objectives", "macs", "--png", "x.png"], "want two objectives, got 1"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    options: list[str], sentence: str, commands: Commands, storage: str
) -> None:
    shown = commands.run("pareto", "synthetic", "--storage", storage, *options)

    assert shown.code == 1
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert sentence in shown.err


def test_a_front_shows_estimates_only_until_there_is_a_model() -> None:
    estimates = find_front_rows(make_study(10, finished=0))[1]
    models = find_front_rows(make_study(10, finished=1))[1]

    assert set(estimates["stage"]) == {"fast"}
    assert set(models["stage"]) == {"full"}


def test_select_prefers_a_finished_model(commands: Commands, storage: str, tmp_path: Path) -> None:
    shown = commands.run(
        "select",
        "synthetic",
        "--storage",
        storage,
        "--max-macs",
        "150000",
        "--min-accuracy",
        "0.9",
    )

    assert shown.code == 0
    assert f"model of trial 13  {tmp_path}/run/objects/01/" in shown.out


def test_select_says_how_to_finish_an_estimate(commands: Commands, storage: str) -> None:
    shown = commands.run("select", "synthetic", "--storage", storage, "--stage", "fast")

    assert f"autocompress finalize synthetic --storage {storage} --trial" in shown.out


def test_select_out_of_reach_is_an_error(commands: Commands, storage: str) -> None:
    shown = commands.run("select", "synthetic", "--storage", storage, "--max-macs", "5")

    assert shown.code == 1
    assert "no trial is within these limits" in shown.err


def test_report_is_one_page(commands: Commands, storage: str, tmp_path: Path) -> None:
    shown = commands.run("report", "synthetic", "--storage", storage)

    assert shown.out.strip() == str(tmp_path / "run" / "report.html")
    assert "Finished models" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def seeds(storage: str) -> tuple[str, ...]:
    """Return the words that name three studies of one database."""
    for name in ("second", "third"):
        spec = make_spec(Settings(name=name))
        make_study(8, storage=make_storage(storage), name=name, spec=spec)
    return ("synthetic", "second", "third", "--storage", storage)


def test_fronts_of_several_studies_name_each(
    commands: Commands, seeds: tuple[str, ...], tmp_path: Path
) -> None:
    files = ["--csv", f"{tmp_path}/fronts.csv", "--png", f"{tmp_path}/fronts.png"]

    shown = commands.run("pareto", *seeds, *files)

    rows = pd.read_csv(tmp_path / "fronts.csv")
    assert rows["study"].unique().tolist() == ["synthetic", "second", "third"]
    assert "Pareto front of synthetic, second, third" in shown.out
    assert "second 8 " in shown.out
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_compares_studies(
    commands: Commands, seeds: tuple[str, ...], tmp_path: Path
) -> None:
    shown = commands.run("report", *seeds, "--output", f"{tmp_path}/seeds.html")

    page = (tmp_path / "seeds.html").read_text()
    assert shown.code == 0
    assert "<h2>3 studies</h2>" in page
    assert "<td>third</td><td>0.9830</td>" in page


def test_studies_whose_metrics_differ_in_direction_are_not_compared(
    commands: Commands, storage: str
) -> None:
    task = TaskSettings(metric="mse", metric_direction="minimize")
    spec = make_spec(Settings(name="loss", task=task))
    make_study(3, storage=make_storage(storage), name="loss", spec=spec)

    shown = commands.run("pareto", "synthetic", "loss", "--storage", storage)

    assert shown.code == 1
    assert "want one direction of the metric, got synthetic: maximize, loss: minimize" in shown.err


def test_sensitivity_lists_every_density(commands: Commands, storage: str, tmp_path: Path) -> None:
    shown = commands.run(
        "sensitivity", "synthetic", "--storage", storage, "--csv", f"{tmp_path}/s.csv"
    )

    assert "energy if halved" in shown.out
    assert set(pd.read_csv(tmp_path / "s.csv")["density"]) == {
        f"{kind}/conv{place}" for kind in ("filters", "columns") for place in (1, 2, 3)
    }


def test_a_missing_study_is_one_sentence(commands: Commands, storage: str) -> None:
    shown = commands.run("status", "other", "--storage", storage)

    assert shown.code == 1
    assert "studies there: synthetic" in shown.err


def test_debug_shows_the_traceback(storage: str) -> None:
    with pytest.raises(StudyError):
        main(["status", "other", "--storage", storage, "--debug"])
