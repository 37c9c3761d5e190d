import subprocess
import sys

import pytest

import autocompress


def run_python(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_the_package_loads_no_heavy_module() -> None:
    code = (
        "import sys, autocompress;"
        "print(sorted({'ray', 'optuna', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )

    assert run_python(code) == "[]"


def test_the_command_line_starts_without_heavy_modules() -> None:
    code = (
        "import sys, autocompress.cli;"
        "print(sorted({'ray', 'optuna', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )

    assert run_python(code) == "[]"


@pytest.mark.parametrize("name", autocompress.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(autocompress, name)


def test_dir_lists_the_public_names() -> None:
    assert set(autocompress.__all__) <= set(dir(autocompress))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune_everything'"):
        _ = autocompress.prune_everything
