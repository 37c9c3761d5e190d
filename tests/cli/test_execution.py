import pytest

from autocompress.cli.execution import Execution
from autocompress.errors import SettingError
from autocompress.execute.settings import ExecuteSettings
from autocompress.search.spec import Settings
from autocompress.settings import read_settings

ASKED = [
    (Execution(), ExecuteSettings(), ""),
    (
        Execution(workers=3, stop_after_s=9.5),
        ExecuteSettings(workers=3, stop_after_s=9.5),
        " --workers 3",
    ),
    (
        Execution(executor="ray", workers=2),
        ExecuteSettings(executor="ray", workers=2),
        " --workers 2 --executor ray",
    ),
    (
        Execution(address="head:6379"),
        ExecuteSettings(executor="ray", address="head:6379"),
        " --address head:6379",
    ),
]


@pytest.mark.parametrize(("execution", "wanted", "options"), ASKED)
def test_options_change_a_file_and_settings_alike(
    execution: Execution, wanted: ExecuteSettings, options: str
) -> None:
    read = read_settings(Settings, None, execution.list_changes())

    assert read.execute == execution.change(ExecuteSettings()) == wanted
    assert execution.name_options() == options


def test_what_no_option_names_stays() -> None:
    given = ExecuteSettings(workers=4, timeout_s=7.0, executor="subprocess")

    assert Execution().change(given) == given
    assert Execution(workers=2).change(given).timeout_s == 7.0


def test_an_unknown_executor_is_one_sentence() -> None:
    with pytest.raises(SettingError, match="executor"):
        Execution(executor="dask").change(ExecuteSettings())
