"""Settings of every test."""

import pytest
import torch
from hypothesis import settings

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
