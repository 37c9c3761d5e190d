"""Options that say where evaluations run."""

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from autocompress.execute.settings import ExecuteSettings

Workers = Annotated[
    int, typer.Option("--workers", help="Evaluations at the same time; as in the settings if 0.")
]
StopAfter = Annotated[
    float, typer.Option("--stop-after", help="Seconds after which no evaluation begins; 0: never.")
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where evaluations run: auto, in_process, subprocess or ray (a cluster).",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="auto|local|HOST:PORT",
        help="The Ray cluster; local starts one for this search. Means --executor ray.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What the options ask for; 0 and empty leave what the settings say.

    Attributes:
        workers: Evaluations at the same time.
        stop_after_s: Seconds after which no evaluation begins.
        executor: Where they run.
        address: The Ray cluster.
    """

    workers: int = 0
    stop_after_s: float = 0.0
    executor: str = ""
    address: str = ""

    def list_changes(self) -> list[str]:
        """Return the options as changes of a settings file, ``key=value`` in TOML."""
        return [f"execute.{key}={json.dumps(value)}" for key, value in self._asked().items()]

    def name_options(self) -> str:
        """Return the options to be given once more; the time starts again."""
        options = f" --workers {self.workers}" if self.workers else ""
        options += f" --executor {shlex.quote(self.executor)}" if self.executor else ""
        return options + (f" --address {shlex.quote(self.address)}" if self.address else "")

    def change(self, given: ExecuteSettings) -> ExecuteSettings:
        """Return ``given`` with what the options say.

        Raises:
            SettingError: They do not go together.
        """
        from autocompress.settings import parse_settings

        return parse_settings(ExecuteSettings, {**asdict(given), **self._asked()})

    def _asked(self) -> dict[str, Any]:
        asked = {**asdict(self), "executor": self.executor or ("ray" if self.address else "")}
        return {key: value for key, value in asked.items() if value}
