from pathlib import Path

import pytest

from autocompress.search.spec import find_run_dir


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
