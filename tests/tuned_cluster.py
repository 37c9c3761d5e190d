"""A process that searches by Ray Tune on a cluster of its own, which loses a machine."""

import sys
import threading
from pathlib import Path

from tests.ray_drivers import STORE_BYTES, hold_cluster  # isort: skip - it must precede Ray

from tests.formula import count_runs
from tests.tuned import Opener, make_tuned, run_tuned
from tests.workers import wait_until


def main(folder: str) -> None:
    """Search until the end; one of two machines is lost meanwhile, and another joins."""
    with hold_cluster() as cluster:
        first, _ = (
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)
        )

        def lose() -> None:
            wait_until(lambda: len(count_runs(Path(folder))) >= 4, 200.0)
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

        thread = threading.Thread(target=lose)
        thread.start()
        settings = make_tuned(Path(folder), batch=2, address=cluster.address)
        run_tuned(settings, Opener(delay_s=2.0))
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
