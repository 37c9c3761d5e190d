"""A process that searches by Ray Tune on a cluster that loses a machine or has a sick one."""

import sys
import threading
from pathlib import Path

from tests.ray_drivers import STORE_BYTES, hold_cluster  # isort: skip - it must precede Ray

from tests.formula import count_runs
from tests.tuned import Opener, make_tuned, run_tuned
from tests.workers import wait_until


def main(folder: str, fate: str) -> None:
    """Search until the end; one of two machines is sick, or lost, and then another joins.

    Args:
        folder: The run folder.
        fate: ``lose``, or the name of a variable of that machine's environment.
    """
    with hold_cluster() as cluster:
        first, _ = (
            cluster.add_node(
                num_cpus=1, object_store_memory=STORE_BYTES, env_vars={name: name} if name else {}
            )
            for name in (fate, "")
        )

        def lose() -> None:
            wait_until(lambda: len(count_runs(Path(folder))) >= 4, 200.0)
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

        thread = threading.Thread(target=lose)
        if fate == "lose":
            thread.start()
        settings = make_tuned(Path(folder), batch=2, address=cluster.address)
        run_tuned(settings, Opener(delay_s=2.0 if fate == "lose" else 0.1))
        if fate == "lose":
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
