"""The commands in one app, and its one place for errors."""

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer

import autocompress
from autocompress import __version__
from autocompress.cli import (
    bench,
    clean,
    compare,
    compress,
    dashboard,
    export,
    model,
    pack,
    search,
    study,
    watch,
)
from autocompress.cli.place import HIDDEN, hide_passwords, warn
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
    app.command()(compare.compare)
    app.command()(compress.compress)
    app.command()(study.report)
    app.command()(watch.watch)
    app.command()(dashboard.dashboard)
    app.command()(model.evaluate)
    app.command()(export.export)
    app.command()(bench.bench)
    app.command()(pack.pack)
    app.command()(pack.unpack)
    app.command()(pack.inspect)
    app.command()(pack.verify)
    app.command()(clean.clean)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code.

    0 done, 1 error, 2 usage, 3 done but the wanted metric was not held, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.argv[1:] = [hide_passwords(argument) for argument in sys.argv[1:]]  # Trackers store it.
    _see_own_modules()
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    _show_logs(debug=debug)
    if any(hide_passwords(argument) != argument for argument in given):
        seen = "others on this machine, and who sees Ray's jobs, can read a password in a command"
        warn(f"{seen}; {HIDDEN}")
    try:
        make_app()(given, prog_name="autocompress")
    except Exception as error:  # The last edge: a person gets one sentence, whatever broke.
        if debug:
            sys.excepthook = _show_traceback
            raise
        _fail(_explain(error))


class _Screen(logging.Handler):
    """Writes lines to what is standard error at that moment, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of ``record`` without the passwords of URLs."""
        typer.echo(hide_passwords(self.format(record)), err=True)


def _show_logs(*, debug: bool) -> None:
    """Show warnings of ours as lines for people, those of libraries only with ``debug``."""
    screen = _Screen()
    screen.setFormatter(logging.Formatter(logging.BASIC_FORMAT if debug else "note: %(message)s"))
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, handlers=[screen])
    if not debug:
        logging.getLogger(autocompress.__name__).setLevel(logging.WARNING)


def _show_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """Print an error as Python does, without the passwords of URLs."""
    typer.echo(hide_passwords("".join(traceback.format_exception(kind, error, where))), err=True)


def _explain(error: Exception) -> str:
    """Return what went wrong in one sentence."""
    if isinstance(error, AutoCompressError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    kind = type(error).__name__
    return f"unexpected {kind}: {error}; run it again with --debug and report what it shows"


def _see_own_modules() -> None:
    """Let ``package.module:function`` name a file of the working folder, as ``python -m`` does."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # Last: nothing installed is hidden by a file that lies here.


def _fail(text: str) -> None:
    typer.echo(f"error: {hide_passwords(' '.join(text.split()))}", err=True)
    sys.exit(1)
