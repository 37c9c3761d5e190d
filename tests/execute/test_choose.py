"""Which executor settings ask for, and that all find the same."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import SettingError
from autocompress.execute.choose import open_executor
from autocompress.execute.in_process import InProcess
from autocompress.execute.settings import ExecuteSettings
from autocompress.execute.subprocess_pool import SubprocessPool
from autocompress.search.controller import run_search
from autocompress.store.freight import read_files
from autocompress.store.run_folder import RunFolder
from tests.tiny import TINY
from tests.workers import PerformerFactory


def search(root: Path, **execute: Any) -> tuple[list[tuple[Any, ...]], dict[str, bytes]]:
    """Return the decisions of a search, and the files of its finished model."""
    settings = replace(TINY, run_dir=str(root), execute=ExecuteSettings(threads=1, **execute))
    result = run_search(settings)
    rows = [
        (one.seq, one.key, one.stage, one.round, one.candidate, one.energy, one.artifact)
        for one in result.records
    ]
    files = read_files(RunFolder(root).path(result.finished[0].artifact))
    # Seconds and speed-ups are measured.
    return rows, {name: bytes(data) for name, data in files.items() if name != "metrics.json"}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (ExecuteSettings(), InProcess),
        (ExecuteSettings(workers=2), SubprocessPool),
        (ExecuteSettings(executor="subprocess"), SubprocessPool),
    ],
)
def test_one_worker_is_this_process(tmp_path: Path, settings: ExecuteSettings, kind: type) -> None:
    factory = PerformerFactory(str(tmp_path))

    executor = open_executor(settings, factory(), factory, RunFolder(tmp_path))

    assert isinstance(executor, kind)
    executor.close()


def test_ray_that_is_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.startswith("autocompress.execute.ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    factory = PerformerFactory(str(tmp_path))

    with pytest.raises(SettingError, match=r'want pip install "autocompress\[ray\]"'):
        open_executor(ExecuteSettings(executor="ray"), factory(), factory, RunFolder(tmp_path))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_search_on_ray_finds_what_one_process_finds(tmp_path: Path) -> None:
    alone = search(tmp_path / "alone")

    together = search(tmp_path / "together", executor="ray", address="local", workers=2)

    assert together == alone
    assert len(alone[1]) >= 2
