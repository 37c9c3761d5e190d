"""Whether a cluster is there, and has room."""

import logging
from collections.abc import Callable

from autocompress.errors import ClusterError
from autocompress.execute.ray_cluster import Cluster
from autocompress.execute.ray_crew import Crew, describe_shortage

logger = logging.getLogger(__name__)

PLACE_S = 60.0  # An autoscaler may need minutes, but who waits wants to know.
PROBE_S = 5.0
HEAD_S = 45.0  # Ray itself ends this process after a minute without its head.


class ClusterWatch:
    """Looks after a cluster that is connected to."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        """Begin to count seconds.

        Args:
            cluster: The connection.
            clock: In seconds.
        """
        self._cluster = cluster
        self._clock = clock
        self._heard_s = self._probed_s = self._full_since_s = clock()
        self._is_warned = False

    def check(self, crew: Crew) -> None:
        """Say when fewer workers have a place than were asked for, or the head is silent.

        Raises:
            ClusterError: It has been silent for too long.
        """
        now_s = self._clock()
        if not crew.count("asked"):
            self._full_since_s, self._is_warned = now_s, False
        elif now_s - self._full_since_s >= PLACE_S and not self._is_warned:
            self._is_warned = True
            logger.warning("%s", describe_shortage(crew.members))
        if now_s - self._probed_s < PROBE_S:
            return
        self._probed_s = now_s
        if self._cluster.has_head():
            self._heard_s = now_s
        elif now_s - self._heard_s >= HEAD_S:
            raise ClusterError(f"its head {self._cluster.address} does not answer")
