"""The ``lavin`` command. Heavy imports happen inside the functions that need them: ``lavin --help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lavin import __version__
from lavin.cli_check import check
from lavin.cli_context import context
from lavin.cli_convert import convert
from lavin.cli_data import data, examples
from lavin.cli_infer import infer
from lavin.errors import LavinError

app = typer.Typer(
    name="lavin",
    help="In-context vision: show input-target pairs and a query, get the query's target.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ``lavin`` command; returns its exit code."""
    return run(app, "lavin", arguments)


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes are one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        code = app(args=arguments, prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except typer.Exit as leave:
        return leave.exit_code
    except LavinError as error:
        return fail(str(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own, about options; its class moves between versions
            raise
        return fail(error.format_message())
    return code if isinstance(code, int) else 0


def fail(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lavin {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def tasks() -> None:
    """List the tasks, one line each."""
    from lavin.tasks import REGISTRY

    width = max(map(len, REGISTRY))
    for name in sorted(REGISTRY):
        typer.echo(f"{name:<{width}}  {REGISTRY[name].description}")


app.command()(infer)
app.command()(examples)
app.command()(convert)
app.add_typer(context)
data.command()(check)
app.add_typer(data)


if __name__ == "__main__":
    sys.exit(main())
