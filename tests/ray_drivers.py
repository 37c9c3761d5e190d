"""Processes that drive Ray: one may be killed, others lose machines of a cluster of their own.

``python -m tests.ray_drivers NAME FOLDER``; what is found is printed as JSON.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update(  # Before Ray is imported.
    RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled"
)

import ray
from ray.cluster_utils import Cluster

from autocompress.errors import ClusterError, DataError
from autocompress.execute import ray_watch
from autocompress.execute.choose import Placeless
from autocompress.execute.ray_pool import RayPool
from autocompress.execute.settings import ExecuteSettings
from autocompress.store.run_folder import RunFolder
from tests.workers import PerformerFactory, make_job, take_outcome, wait_until

STORE_BYTES = 10**8
HEALTH = {  # A machine that says nothing for a second is dead; by default it takes 13.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}


def open_pool(root: str, **changes: Any) -> RayPool:
    """Return a pool of two workers that do what jobs say, which tells of the first one too."""
    settings = ExecuteSettings(executor="ray", workers=2, ahead=1, **changes)
    maker = Placeless(PerformerFactory(root))
    return RayPool(lambda: maker, RunFolder(Path(root)), settings)


@contextmanager
def hold_cluster() -> Iterator[Cluster]:
    """Give a cluster of processes of this machine; its head has no room for jobs."""
    with tempfile.TemporaryDirectory(prefix="ac", ignore_cleanup_errors=True) as home:
        os.environ["RAY_TMPDIR"] = home
        (Path(home) / "ray").mkdir()
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH})
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def hang(root: str) -> None:
    """Leave two workers that hang, in a Ray of our own, and wait."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # A shell's background job ignores it.
    pool = open_pool(root, address="local")
    pool.submit("shown", make_job("show_environment"))
    take_outcome(pool)
    for seed in range(2):
        pool.submit(f"meet{seed}", make_job("meet", seed))
    for _ in range(2):
        take_outcome(pool)
    say(pids=pool.pids)
    pool.submit("hang", make_job("hang"))
    try:
        take_outcome(pool)
    except KeyboardInterrupt:
        pool.close()
        say(closed=True)


def move(root: str) -> None:
    """Begin without room, take machines that join, and lose one with a job and one without."""
    with hold_cluster() as cluster:
        pool = open_pool(root, address=cluster.address)
        pool.submit("meet0", make_job("meet", 0))
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        first, alone = pool.wait(), pool.slots
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        while pool.slots < 3:
            pool.wait()
        pool.submit("meet1", make_job("meet", 1))
        met = [take_outcome(pool)[1].error for _ in range(2)]
        pool.submit("hang0", make_job("hang"))
        pool.submit("hang1", make_job("hang"))
        cluster.remove_node(second, allow_graceful=False)
        key, outcome = take_outcome(pool)
        left = pool.slots
        third = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        pool.submit(key, make_job("calm"))
        again = take_outcome(pool)
        cluster.remove_node(third, allow_graceful=False)
        grown = pool.slots
        while pool.slots == grown:
            pool._look()
        pool.close()
        say(
            first=first,
            alone=alone,
            met=met,
            lost=outcome.lost,
            error=outcome.error,
            left=left,
            again=[again[0] == key, again[1].error],
            grown=grown,
        )


class Told(logging.Handler):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.said.append(record.getMessage())


def shun(root: str) -> None:
    """Meet a machine with another version and a sick one; take others until there are none."""
    told = Told()
    logging.getLogger("autocompress").addHandler(told)
    folders = {
        "old": "import autocompress\nautocompress.__version__ = '0.0'\n",
        "without": "import sys\nsys.modules['autocompress.execute.ray_worker'] = None\n",
    }
    for name, code in folders.items():
        (Path(root) / name).mkdir()
        (Path(root) / name / "sitecustomize.py").write_text(code)
    with hold_cluster() as cluster:

        def add(**environment: str) -> Any:
            return cluster.add_node(
                num_cpus=1, object_store_memory=STORE_BYTES, env_vars=environment
            )

        for name in folders:
            add(PYTHONPATH=os.pathsep.join([str(Path(root) / name), *sys.path]))
        add(SICK="1")
        pool = open_pool(root, address=cluster.address)
        pool.submit("calm", make_job())
        calm = take_outcome(pool)[1].error
        pool.submit("wait0", make_job("meet", 0))
        well = add()
        while pool.slots < 3:
            pool.wait()
        pool.submit("wait1", make_job("meet", 1))
        met = [take_outcome(pool)[1].error for _ in range(2)]
        keys = ["first", "second"]
        for key in keys:
            pool.submit(key, make_job("refuse_if_sick"))
        outcomes = dict(take_outcome(pool) for _ in keys)
        (lost,) = (key for key in keys if outcomes[key].lost)
        again = []
        for place in range(3):
            pool.submit(f"{lost}{place}", make_job("refuse_if_sick"))
            again.append(take_outcome(pool)[1].error)
        left = pool.slots
        pool.submit(lost, make_job("hang_once"))
        wait_until((Path(root) / "hangs").exists)
        cluster.remove_node(well, allow_graceful=False)
        gone = take_outcome(pool)[1].lost
        pool.submit(lost, make_job("refuse_if_sick"))
        raised = ""
        try:
            take_outcome(pool)
        except DataError as error:
            raised = str(error)
        pool.close()
        say(
            calm=calm,
            met=met,
            lost=outcomes[lost].error,
            again=again,
            left=left,
            gone=gone,
            raised=raised,
            told=[one for one in told.said if " is not used" in one],
        )


def lose_head(root: str) -> None:
    """Lose the head while a job runs."""
    ray_watch.HEAD_S, ray_watch.PROBE_S = 2.0, 0.2
    with hold_cluster() as cluster:
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        pool = open_pool(root, address=cluster.address)
        pool.submit("calm", make_job())
        take_outcome(pool)
        pool.submit("hang", make_job("hang"))
        cluster.head_node.kill_gcs_server()
        error = ""
        try:
            take_outcome(pool)
        except ClusterError as caught:
            error = str(caught)
        begun = time.monotonic()
        pool.close()
        say(error=error, closing_s=time.monotonic() - begun)


def lose_machine(root: str) -> None:
    """Lose the Ray process of this machine while a job runs."""
    with hold_cluster() as cluster:
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        pool = open_pool(root, address="auto")  # As whoever runs on a machine of it.
        pool.submit("hang", make_job("hang"))
        pool.wait()
        cluster.head_node.kill_raylet()
        error = ""
        try:
            take_outcome(pool)
        except ClusterError as caught:
            error = str(caught)
        pool.close()
        say(error=error)


def say(**found: Any) -> None:
    """Write what was found as one line."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


DRIVERS = {one.__name__: one for one in (hang, move, shun, lose_head, lose_machine)}

if __name__ == "__main__":
    DRIVERS[sys.argv[1]](sys.argv[2])
