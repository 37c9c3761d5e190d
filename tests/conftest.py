"""Settings of every test."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from autocompress.execute.settings import ExecuteSettings
from tests.postgres import PostgresServer, run_postgres

# No deadline, because CI machines share their cores; the same examples on every run.
settings.register_profile("autocompress", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("autocompress")


def pytest_configure() -> None:
    # Nets of four layers run faster on one thread, and pytest-xdist brings its own processes.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Let tests share one Ray: it takes five seconds to start."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from autocompress.execute.ray_cluster import connect  # noqa: PLC0415 - Ray is optional

    cluster = connect(ExecuteSettings(workers=3, executor="ray", address="local"))
    yield
    cluster.close()


@pytest.fixture(scope="session")
def running_postgres() -> Iterator[PostgresServer]:
    """Give a PostgreSQL server for the whole run; skips where it is not installed."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres(running_postgres: PostgresServer) -> PostgresServer:
    """Give that server, running even if the test before stopped it."""
    running_postgres.ensure()
    return running_postgres
