"""What runs in the process of a worker: it makes its runner once, then evaluates job by job.

The controller sends ``{"folder", "threads", "growth_bytes"}`` and the pickled maker of the
runner once, then ``{"key", "job"}`` again and again. Replies are JSON, see :class:`Reply`;
nothing that a worker sends is unpickled.
"""

import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from autocompress.errors import ArtifactError, AutoCompressError, DataError, SettingError
from autocompress.execute.base import Runner, make_failure, run_job
from autocompress.execute.memory import breaks_process, describe_error, read_resident
from autocompress.execute.threads import limit_libraries, set_threads
from autocompress.jobs import Job
from autocompress.store.run_folder import RunFolder, open_folder

logger = logging.getLogger(__name__)

PARENT_CHECK_S = 0.5

# What ends the search instead of one attempt: the controller raises it again.
STOPPING: dict[str, type[AutoCompressError]] = {
    one.__name__: one for one in (SettingError, DataError, ArtifactError)
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a worker says; neither ``outcome`` nor ``stop``: its runner is ready.

    Attributes:
        outcome: What came of the job, as JSON.
        stop: Name of the error in ``STOPPING`` that the job raised.
        text: Message of that error.
        leaving: Whether the worker takes no further job.
    """

    outcome: Mapping[str, Any] = field(default_factory=dict)
    stop: str = ""
    text: str = ""
    leaving: bool = False

    def to_bytes(self) -> bytes:
        """Return what :meth:`from_bytes` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> "Reply":
        """Return the reply of :meth:`to_bytes`."""
        return cls(**json.loads(text))


def main(handle: int, parent: int) -> None:
    """Serve the controller at the other end of a socket until either of us ends.

    Args:
        handle: File descriptor of our end.
        parent: Process id of the controller.
    """
    # Ctrl-C is for the controller, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow_parent, args=(parent,), daemon=True).start()
    with Connection(handle) as connection, suppress(EOFError, ConnectionError):
        serve(connection)


def follow_parent(parent: int) -> None:
    """Kill this process, and all that it started, soon after the controller has died."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def serve(connection: Connection) -> None:
    """Evaluate what comes in, until the worker should be replaced.

    Raises:
        EOFError: The controller has no more work.
    """
    start = json.loads(connection.recv_bytes())
    folder, threads = open_folder(start["folder"]), start["threads"]
    enough = 0
    # Unpickling may import PyTorch, and libraries look at their variables once.
    limit_libraries(threads)
    maker, begun = connection.recv_bytes(), time.monotonic()
    try:
        runner: Runner = pickle.loads(maker)()  # noqa: S301 - our own controller's
    except Exception as error:  # The executor's edge.
        logger.debug("the runner could not be made", exc_info=True)
        connection.send_bytes(reply_error(error, time.monotonic() - begun).to_bytes())
        return
    reply = Reply()
    while not reply.leaving:
        connection.send_bytes(reply.to_bytes())
        order = json.loads(connection.recv_bytes())
        set_threads(threads)  # At every job: the one before may have changed it.
        reply = evaluate(runner, order["key"], Job.from_json(order["job"]), folder)
        # What the first job leaves behind, data and libraries, stays in use.
        enough = enough or read_resident() + start["growth_bytes"]
        if read_resident() > enough:
            reply = replace(reply, leaving=True)
    connection.send_bytes(reply.to_bytes())


def evaluate(runner: Runner, key: str, job: Job, folder: RunFolder) -> Reply:
    """Return what came of a job; its result, if any, is on the disk."""
    begun = time.monotonic()
    try:
        outcome = run_job(runner, key, job, folder, time.monotonic)
    except tuple(STOPPING.values()) as error:
        return reply_error(error, time.monotonic() - begun)
    return Reply(outcome=outcome.to_json(), leaving=breaks_process(outcome.error))


def reply_error(error: Exception, seconds: float) -> Reply:
    """Return the last reply of a worker that met ``error`` outside an evaluation."""
    for name, kind in STOPPING.items():
        if isinstance(error, kind):
            return Reply(stop=name, text=str(error), leaving=True)
    failure = make_failure(describe_error(error), seconds)
    return Reply(outcome=failure.to_json(), leaving=True)
