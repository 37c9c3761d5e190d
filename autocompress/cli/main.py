"""The commands in one app, and its one place for errors."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autocompress import __version__
from autocompress.cli import clean, dashboard, model, search, study
from autocompress.errors import AutoCompressError


def show_version(asked: bool) -> None:  # noqa: FBT001 - a callback of typer
    """Print the version and stop, when asked to."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def take_options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=show_version, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")
    ] = False,
) -> None:
    """From a trained CNN to a smaller, ordinary PyTorch model."""
    # Here for the help text: main() reads --debug itself, wherever it stands.
    del version, debug


def make_app() -> typer.Typer:
    """Return the app with all commands."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(take_options)
    for command in (search.train, search.space, search.search, search.resume):
        app.command()(command)
    for reader in (study.status, study.pareto, study.select, study.sensitivity):
        app.command()(reader)
    app.command()(search.finalize)
    app.command()(study.report)
    app.command()(dashboard.dashboard)
    app.command()(model.evaluate)
    app.command()(clean.clean)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code: 0 done, 1 error, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _see_own_modules()
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR)
    try:
        make_app()(given, prog_name="autocompress")
    except AutoCompressError as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except Exception as error:  # The last edge: a person gets one sentence, whatever broke.
        if debug:
            raise
        kind = type(error).__name__
        _fail(f"unexpected {kind}: {error}; run it again with --debug and report what it shows")


def _see_own_modules() -> None:
    """Let ``package.module:function`` name a file of the working folder, as ``python -m`` does."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # Last: nothing installed is hidden by a file that lies here.


def _fail(text: str) -> None:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    sys.exit(1)
