"""(b) Workers on Ray are killed, run out of memory, and hang."""

import importlib.util
from pathlib import Path

import pytest

from autocompress.execute.settings import ExecuteSettings
from autocompress.search.study import open_study
from tests.faults.drive import (
    driving,
    make_service,
    read_endings,
    run_through,
    serve_and_say,
    wait_for_end,
)
from tests.faults.runners import FAULTS, MakeFaulty, count_faults
from tests.faults.tally import Tally
from tests.service import Service

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
HANG_S = 3.0
SAID = {
    "kill": "ended without an answer: killed, crashed or out of memory",
    "memory": "out of memory (MemoryError)",
    "killed for memory": "ended without an answer: killed, crashed or out of memory",
    "hang": f"longer than execute.timeout_s = {HANG_S:g} seconds",
}


def make_ray_service(folder: Path, mode: str, kinds: tuple[str, ...], most: int) -> Service:
    return make_service(
        folder,
        mode,
        evaluations=6 if most == 1 else 36,
        pool="ray",
        workers=2,
        wrap=MakeFaulty(kinds, most),
        execute=ExecuteSettings(address="local", timeout_s=HANG_S),
    )


@pytest.mark.parametrize(
    ("mode", "kinds", "most"),
    [
        ("batch", ("kill",), 1),
        pytest.param("batch", tuple(FAULTS), 3, marks=pytest.mark.faults),
        pytest.param("asynchronous", tuple(FAULTS), 3, marks=pytest.mark.faults),
    ],
)
@pytest.mark.timeout(300)
def test_a_search_outlasts_its_workers(
    tmp_path: Path, tally: Tally, mode: str, kinds: tuple[str, ...], most: int
) -> None:
    service = make_ray_service(tmp_path / "faulty", mode, kinds, most)

    with driving(serve_and_say, service) as process:
        status = wait_for_end(process)

    for kind in kinds:
        tally.inject(f"worker on Ray: {kind}", count_faults(Path(service.folder), kind))
    assert status == 0, read_endings(service)
    errors = read_errors(service)
    for kind in kinds:
        happened = count_faults(Path(service.folder), kind)
        assert happened == most
        assert sum(SAID[kind] in error for error in errors) >= happened, errors
    tally.check(service, run_through(tmp_path / "whole", service))


def read_errors(service: Service) -> list[str]:
    """Return what was noted of attempts that came to nothing."""
    study = open_study(service.settings.name, service.settings.storage)
    attrs = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return [one["error"] for one in attrs if "error" in one]
