#!/usr/bin/env python3
"""The command ``ray`` for several nodes on the loopback interface of one machine.

``ray start`` gives a node that joins a cluster the address of a network card and lets it listen on
all of them; told to stay on the loopback interface, it refuses to join. Real machines want just
that, and ``local_cluster.sh`` does not.
"""

import sys

from ray._private import ray_constants, services
from ray.scripts.scripts import main

services.get_node_ip_address = lambda address=None: "127.0.0.1"
ray_constants.ENABLE_RAY_CLUSTER = True  # In this process; what it starts keeps its environment.
sys.exit(main())
