from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import SettingError
from autocompress.evaluate.task import TaskSettings
from autocompress.execute.settings import ExecuteSettings
from autocompress.search.controller import run_search
from autocompress.search.spec import (
    Settings,
    check_device,
    check_lasting,
    find_run_dir,
    resolve_settings,
)


def test_the_run_folder_is_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "began" / "runs" / "one"
    (run_dir / "objects").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    found = find_run_dir("runs/one", f"sqlite:///{run_dir}/study.db")

    assert Path(found) == run_dir


def test_a_database_apart_from_the_models_says_nothing_about_their_folder(tmp_path: Path) -> None:
    assert find_run_dir("runs/one", f"sqlite:///{tmp_path}/study.db") == "runs/one"
    assert find_run_dir("runs/one", "postgresql://host/db") == "runs/one"


@pytest.mark.parametrize(
    ("run_dir", "storage", "key"),
    [
        ("runs/first", "", "run_dir"),
        ("runs/first", "postgresql+psycopg://db/studies", "run_dir"),
        ("memory://runs/first", "study.db", "storage"),
    ],
)
def test_a_study_does_not_lie_in_the_folder_of_a_ray_job(
    run_dir: str, storage: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "working_dir_files" / "_ray_pkg_d412"
    job.mkdir(parents=True)
    settings = resolve_settings(Settings(run_dir=run_dir, storage=storage))
    check_lasting(settings)
    monkeypatch.chdir(job)

    with pytest.raises(SettingError, match=f"{key}: .* is deleted with it"):
        check_lasting(settings)
    check_lasting(resolve_settings(Settings(run_dir=str(tmp_path / "runs"))))


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_on_ray_wants_gpus(device: str, tmp_path: Path) -> None:
    on_ray = ExecuteSettings(executor="ray")
    task = TaskSettings(device=device)
    settings = Settings(task=task, execute=on_ray, run_dir=str(tmp_path))

    with pytest.raises(SettingError, match=r"execute\.gpus is 0: Ray's workers see"):
        run_search(settings)
    for fitting in (
        replace(settings, execute=replace(on_ray, gpus=0.5)),
        replace(settings, execute=ExecuteSettings()),
        replace(settings, task=TaskSettings()),
    ):
        check_device(fitting)
