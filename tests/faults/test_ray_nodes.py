"""(c) Machines of a Ray cluster are lost, and others join."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from autocompress.execute.settings import ExecuteSettings
from autocompress.search.study import open_study
from tests.faults.drive import (
    LIMIT_S,
    driving,
    make_service,
    read_endings,
    run_through,
    serve_and_say,
    wait_for_decisions,
    wait_for_end,
)
from tests.faults.runners import Located, read_places
from tests.faults.tally import Tally
from tests.service import FORKSERVER, Service
from tests.workers import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}


class Machines:
    """A Ray cluster whose machines are processes of this one, kept by another process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.address: str = self._hear()

    def add(self) -> int:
        """Return the process of Ray on a new machine with room for one job."""
        self._pipe.send(("add", 0))
        return int(self._hear())

    def kill(self, process: int) -> None:
        """Let a machine vanish."""
        self._pipe.send(("kill", process))
        self._hear()

    def _hear(self) -> str:
        assert self._pipe.poll(LIMIT_S)
        return str(self._pipe.recv())


def keep_machines(pipe: Connection) -> None:
    """Start a cluster whose head has no room for jobs; do as told until the pipe ends."""
    drivers = import_module("tests.ray_drivers")
    nodes = {}
    with drivers.hold_cluster() as cluster:
        pipe.send(cluster.address)
        while True:
            try:
                order, process = pipe.recv()
            except EOFError:
                return
            if order == "add":
                node = cluster.add_node(num_cpus=1, object_store_memory=drivers.STORE_BYTES)
                process = node.all_processes["raylet"][0].process.pid
                nodes[process] = node
            else:
                cluster.remove_node(nodes.pop(process), allow_graceful=False)
            pipe.send(process)


@contextmanager
def running_machines() -> Iterator[Machines]:
    """Give a cluster, which ends with the test."""
    ours, theirs = FORKSERVER.Pipe()
    with driving(keep_machines, theirs) as keeper, ours:
        theirs.close()
        yield Machines(ours)
        ours.close()
        keeper.join(LIMIT_S)


def is_busy(service: Service, machine: int) -> bool:
    """Return whether a job runs on a machine."""
    return read_places(Path(service.folder), machine)[-1:] == ["begin"]


def read_losses(service: Service) -> list[dict[str, object]]:
    """Return what is noted of trials that were lost with their machine."""
    study = open_study(service.settings.name, service.settings.storage)
    attrs = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return [one for one in attrs if "lost" in one.get("error", "")]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["batch", "asynchronous"])
def test_a_lost_machine_costs_no_attempt_and_a_new_one_is_used(
    tmp_path: Path, tally: Tally, mode: str
) -> None:
    with running_machines() as machines:
        first, second = machines.add(), machines.add()
        service = make_service(
            tmp_path / "moving",
            mode,
            evaluations=28,
            pool="ray",
            workers=2,
            wrap=Located,
            delay_s=2.0,
            execute=ExecuteSettings(address=machines.address),
            environment=ENVIRONMENT,
        )
        with driving(serve_and_say, service) as process:
            wait_for_decisions(service, 5, process)
            wait_until(lambda: is_busy(service, first), LIMIT_S)
            machines.kill(first)
            tally.inject(f"machine of a Ray cluster lost, {mode}")
            third = machines.add()
            tally.inject(f"machine joined a Ray cluster, {mode}")
            wait_until(lambda: is_busy(service, third), LIMIT_S)
            machines.kill(second)
            tally.inject(f"machine of a Ray cluster lost, {mode}")
            assert wait_for_end(process) == 0, read_endings(service)

    losses = read_losses(service)
    keys = [note["key"] for note in losses]
    assert 1 <= len(losses) <= 3
    assert all(one["attempt"] in {1, 2, 3} for one in losses)
    study = open_study(service.settings.name, service.settings.storage)
    for key in keys:
        trials = [one for one in study.get_trials(deepcopy=False) if one.user_attrs["key"] == key]
        decided = [one for one in trials if "verdict" in one.user_attrs]
        assert len(decided) == 1
        verdict = json.loads(decided[0].user_attrs["verdict"])
        failed = [one for one in trials if "lost" not in one.user_attrs.get("error", "lost")]
        assert decided[0].user_attrs["losses"] == len(trials) - 1 - len(failed)
        assert decided[0].user_attrs["attempt"] == 1 + len(failed)
        assert verdict["energy"] is not None or len(failed) == 2
    tally.check(service, run_through(tmp_path / "whole", service))
