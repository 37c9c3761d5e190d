from pathlib import Path

import numpy as np
import pytest

from autocompress.store.freight import read_files, store_files, write_files
from autocompress.store.run_folder import RunFolder

FILES = {
    "a.bin": np.arange(256, dtype=np.uint8),
    "deep/er/b.bin": np.zeros(0, dtype=np.uint8),
}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_files(tmp_path / "new", FILES)

    found = read_files(tmp_path / "new")

    assert found.keys() == FILES.keys()
    assert all((found[name] == FILES[name]).all() for name in FILES)


def test_what_is_stored_is_an_object_and_stays_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    store_files(folder, "key", FILES)

    store_files(folder, "key", {"other": FILES["a.bin"]})

    assert read_files(folder.path("key")).keys() == FILES.keys()


@pytest.mark.parametrize("name", ["../out", "/out", "deep/../../out"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"

    with pytest.raises(ValueError, match="must stay within the folder"):
        write_files(folder, {name: FILES["a.bin"]})

    assert not (tmp_path / "out").exists()
