"""The command that sets searchers and methods against each other."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.search import Override, SettingsFile
from autocompress.cli.study import Storage
from autocompress.errors import SettingError

Seeds = Annotated[
    str, typer.Option("--seeds", metavar="0,1,2", help="Run these instead of the settings' own.")
]
Arms = Annotated[
    str,
    typer.Option("--arms", metavar="A,B", help="Run only these; tables keep what ran before."),
]
Peers = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", metavar="FILE", help="Rows of other tools, a JSON object a line; repeat."
    ),
]


def compare(
    settings: SettingsFile,
    override: Override = None,
    seeds: Seeds = "",
    arms: Arms = "",
    peers: Peers = None,
    storage: Storage = "",
) -> None:
    """Run searchers and methods at equal cost, as [compare] says; the same again goes on."""
    from autocompress.cli.comparing import compare_arms
    from autocompress.cli.place import choose_storage, make_again
    from autocompress.search.compare import Compared
    from autocompress.settings import read_settings

    chosen = read_settings(Compared, settings, override or ())
    chosen = replace(chosen, storage=choose_storage(storage, chosen.storage))
    given = {"--seeds": [seeds], "--arms": [arms], "--set": override or []}
    given |= {"--with": [str(path) for path in peers or []], "--storage": [storage]}
    words = [
        f" {key} {shlex.quote(one)}" for key, all_of in given.items() for one in all_of if one
    ]
    again = f"autocompress compare {shlex.quote(str(settings))}{''.join(words)}"
    compare_arms(
        chosen,
        seeds=read_seeds(seeds),
        arms=[name.strip() for name in arms.split(",") if name.strip()],
        peers=peers or [],
        again=make_again(again),
    )


def read_seeds(text: str) -> list[int]:
    """Return the numbers in ``0,1,2``.

    Raises:
        SettingError: It is something else.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SettingError(f"--seeds: want whole numbers, as in 0,1,2, got {text!r}") from error
