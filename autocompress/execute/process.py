"""A worker as its controller sees it: a process of its own with a socket to it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from autocompress.execute.worker import Reply

# Not multiprocessing.Process: that runs the user's main script once more in every worker.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from autocompress.execute.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class WorkerProcess:
    """A fresh interpreter in its own process group, so that Ctrl-C reaches the controller only.

    Attributes:
        connection: To the worker; ready to be read when there is a reply or the worker is gone.
        ready: Whether the worker has said that its runner is ready.
    """

    def __init__(self, start: Mapping[str, Any], maker: bytes) -> None:
        """Start the process.

        Args:
            start: First message, see ``worker``.
            maker: Second message: what makes the runner, pickled.

        Raises:
            OSError: The system gives no process.
        """
        self.ready = False
        self.connection, theirs = multiprocessing.Pipe()
        handle = theirs.fileno()
        given = [str(handle), str(os.getpid()), json.dumps(sys.path)]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-c", _START, *given],
                stdin=subprocess.DEVNULL,
                pass_fds=[handle],
                process_group=0,
            )
        with suppress(ConnectionError):  # Who is gone already is found by its silence.
            self.connection.send_bytes(json.dumps(start).encode())
            self.connection.send_bytes(maker)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def send(self, order: Mapping[str, Any]) -> None:
        """Send a message to the worker; one that is gone does not get it."""
        with suppress(ConnectionError):
            self.connection.send_bytes(json.dumps(order).encode())

    def receive(self) -> Reply | None:
        """Return the next reply; None when the worker is gone and there is none."""
        try:
            reply = Reply.from_bytes(self.connection.recv_bytes())
        except (EOFError, OSError):  # OSError: it died in the middle of a reply.
            return None
        self.ready = True
        return reply

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Ask the process, and all that it started, to end."""
        self.connection.close()
        self._signal(signal.SIGTERM)

    def kill(self, grace_s: float = 0.0) -> None:
        """End the process, and all that it started, and leave no zombie.

        Args:
            grace_s: Let it end by itself for so long.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.connection.close()

    def describe_end(self) -> str:
        """Return a sentence on how the process ended, once it has."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "the worker was killed by SIGKILL, probably out of memory"
        if status < 0:
            return f"the worker was ended by {signal.Signals(-status).name}"
        return f"the worker ended with exit status {status} before it had answered"

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: macOS, when only a zombie is left of the group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
