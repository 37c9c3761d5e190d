from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli import work
from autocompress.cli.work import log_figures
from autocompress.errors import SettingError
from autocompress.execute.settings import ExecuteSettings
from autocompress.report.sinks import SinkSettings
from autocompress.report.trackers import make_run_id
from autocompress.search.progress import ignore_progress
from autocompress.search.spec import Settings
from tests.cli.conftest import Commands


def test_an_unknown_sink_is_one_sentence() -> None:
    with pytest.raises(SettingError, match="want some of tensorboard, mlflow, wandb, got 'paper'"):
        log_figures(Settings(), "paper")


def test_a_search_and_what_goes_on_with_it_have_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def note(sinks: SinkSettings, name: str, spec: Mapping[str, Any]) -> object:
        opened.append((sinks, make_run_id(name, spec)))
        return nullcontext(ignore_progress)

    monkeypatch.setattr(work, "open_sinks", note)
    first = Settings(name="digits")
    # The first start settles how many chains there are; where it lies is no part of a study.
    later = replace(first, search=replace(first.search, chains=3), storage="sqlite:///x.db")
    other = replace(first, seed=1)

    for settings in (first, later, other):
        log_figures(settings, "mlflow, wandb")

    assert opened[0] == opened[1]
    assert opened[0][1] != opened[2][1]
    assert opened[0][0].names == ("mlflow", "wandb")
    assert Path(opened[0][0].folder) == Path("runs/digits/logs")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], ExecuteSettings(workers=2, timeout_s=7.0, stop_after_s=60.0)),
        (["--workers", "3"], ExecuteSettings(workers=3, timeout_s=7.0, stop_after_s=60.0)),
        (["--stop-after", "5"], ExecuteSettings(workers=2, timeout_s=7.0, stop_after_s=5.0)),
    ],
)
def test_a_search_resumed_by_its_settings_file_runs_as_that_says(
    storage: str,
    tmp_path: Path,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    wanted: ExecuteSettings,
) -> None:
    path = tmp_path / "own.toml"
    execute = "[execute]\nworkers = 2\ntimeout_s = 7.0\nstop_after_s = 60.0\n"
    path.write_text(f'name = "synthetic"\n{execute}')
    run: list[Settings] = []
    monkeypatch.setattr(work, "search_study", lambda settings, **_: run.append(settings))

    for study in (str(path), "synthetic"):
        shown = commands.run("resume", study, "--storage", storage, *options)
        assert shown.code == 0, shown.err

    assert run[0].execute == wanted
    assert run[1].execute.timeout_s == 0
    assert run[1].execute.workers == (3 if "--workers" in options else 1)
