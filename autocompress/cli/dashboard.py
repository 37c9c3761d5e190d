"""The command that shows a study in optuna-dashboard."""

import logging
import threading
from collections.abc import Callable
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from autocompress.cli.screen import open_console
from autocompress.cli.study import Storage, Study
from autocompress.errors import SettingError

LOOPBACK = "127.0.0.1"
REFRESH_EVERY_S = 3.0
logger = logging.getLogger(__name__)
INSTALL = "python -m pip install 'autocompress[dashboard]'"


def dashboard(
    study: Study,
    storage: Storage = "",
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen at; another lets in whoever reaches it.")
    ] = LOOPBACK,
) -> None:
    """Show a study in optuna-dashboard, on this machine only; it is not changed."""
    from autocompress.cli.find import find_study
    from autocompress.report.mirror import Mirror

    mirror = Mirror(find_study(study, storage).study)
    server = open_server(mirror.storage, port, host)
    mirror.refresh()
    ended = threading.Event()
    thread = threading.Thread(target=keep_fresh, args=(mirror.refresh, ended), daemon=True)
    thread.start()
    text = f"http://{host}:{server.server_port}/dashboard/ shows {mirror.name}; Ctrl-C ends it"
    open_console().print(text, markup=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        open_console(stderr=True).print("stopped", markup=False)
    finally:
        ended.set()
        server.server_close()
        thread.join()


def keep_fresh(refresh: Callable[[], object], ended: threading.Event) -> None:
    """Call ``refresh`` every few seconds until ``ended``."""
    from optuna.exceptions import OptunaError

    while not ended.wait(REFRESH_EVERY_S):
        try:
            refresh()
        except (OptunaError, KeyError) as error:  # A busy database; a copy that a person deleted.
            logger.warning("the study could not be read, trying again: %s", error)


def open_server(storage: Any, port: int, host: str = LOOPBACK) -> WSGIServer:
    """Return a server of optuna-dashboard on ``storage``, which does not serve yet.

    Raises:
        SettingError: optuna-dashboard is missing, the port is taken, or the address is not ours.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise SettingError(
            f"optuna-dashboard is not installed; install it with: {INSTALL}"
        ) from error
    app = wsgi(storage)
    try:
        return make_server(host, port, app, handler_class=_Quiet)
    except OSError as error:
        raise SettingError(f"--port: cannot listen at {host}:{port}: {error.strerror}") from error


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing."""
