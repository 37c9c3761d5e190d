"""A network between a controller and its database, which can go wrong."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # Linger for no time: closing sends a reset.


@dataclass(eq=False)
class Link:
    """A connection that is forwarded.

    Attributes:
        near: To the controller.
        far: To the database.
        is_cut: Whether the near end is gone without a word to the far one.
    """

    near: socket.socket
    far: socket.socket
    is_cut: bool = False


class Proxy:
    """Forwards connections on the loopback interface to a port, unless it is told not to.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._links: list[Link] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.accept()

    def accept(self) -> None:
        """Take connections, at the same port as before, and forward them."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        _run(self._serve, self._listener)

    def refuse(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # Wakes the thread that accepts.
            self._listener.close()
            self._listener = None
        self.cut()
        for link in self._links:
            _reset(link.far)
        self._links.clear()

    def stall(self) -> None:
        """Forward nothing any more: new connections are taken and hear nothing either."""
        self._open.clear()

    def go_on(self) -> None:
        """Forward what was held back and what comes."""
        self._open.set()

    def cut(self) -> None:
        """Reset the connections to the controller; the database hears nothing of it."""
        for link in self._links:
            link.is_cut = True
            _reset(link.near)

    def close(self) -> None:
        """End everything."""
        self.refuse()
        self.go_on()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # The database is down.
                near.close()
                continue
            link = Link(near, far)
            self._links.append(link)
            _run(self._pump, link, near, far)
            _run(self._pump, link, far, near)

    def _pump(self, link: Link, source: socket.socket, target: socket.socket) -> None:
        """Forward one direction until it ends."""
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._open.wait()
                target.sendall(data)
            self._open.wait()
            if not link.is_cut:
                target.shutdown(socket.SHUT_WR)


@contextmanager
def forwarding(target: int) -> Iterator[Proxy]:
    """Give a proxy to a port of this machine."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.shutdown(socket.SHUT_RD)  # Wakes the thread that reads.
    connection.close()


def _run(work: Callable[..., None], *args: object) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()
