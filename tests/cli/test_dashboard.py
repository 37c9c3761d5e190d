import socket
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError

from autocompress.cli import dashboard
from autocompress.cli.dashboard import keep_fresh, open_server
from autocompress.errors import SettingError
from tests.cli.conftest import Commands


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package in the place of optuna-dashboard that serves nothing."""
    package = ModuleType("optuna_dashboard")
    vars(package)["wsgi"] = lambda storage: storage
    monkeypatch.setitem(sys.modules, "optuna_dashboard", package)


def test_without_optuna_dashboard_it_says_what_to_install(
    commands: Commands, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)

    shown = commands.run("dashboard", "synthetic", "--storage", storage)

    assert shown.code == 1
    assert "python -m pip install 'autocompress[dashboard]'" in shown.err


@pytest.mark.usefixtures("installed")
def test_it_listens_to_this_machine_only() -> None:
    server = open_server(None, 0)

    server.server_close()

    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.usefixtures("installed")
def test_it_listens_elsewhere_when_told_to() -> None:
    server = open_server(None, 0, "127.0.0.2")

    server.server_close()

    assert server.server_address[0] == "127.0.0.2"


@pytest.mark.usefixtures("installed")
def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(SettingError, match=f"cannot listen at 127.0.0.1:{port}"):
            open_server(None, port)


def test_a_busy_database_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "REFRESH_EVERY_S", 0.0)
    ended = threading.Event()
    calls: list[Any] = []

    def refresh() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise StorageInternalError("database is locked")
        ended.set()

    keep_fresh(refresh, ended)

    assert len(calls) == 2
