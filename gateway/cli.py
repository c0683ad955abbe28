"""The command line `millstream`: builds the Typer app and says in a line what went wrong."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from millstream.gateway.command_list import COMMANDS
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.console.cleaning import harmless
from millstream.gateway.console.terminal import Unwritable, print_data, progress_console
from millstream.gateway.exits import EXIT_CODES_HELP, ExitCode, Stopped, exit_code_of_error
from millstream.gateway.installation import HOME
from millstream.schemas.errors import MillstreamError, NoSuchTopic, ServiceUnavailable
from millstream.version import __version__

__all__ = ["app", "exit_code_of", "main", "words_of"]


class _Commands(CommandGroup):
    """Ends every command the same way: with an exit code, and words instead of a traceback."""

    listed = COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse what is not text before any command sees it: no name on Kafka could hold it."""
        for argument in args:
            if not argument.isascii() and any("\ud800" <= one <= "\udfff" for one in argument):
                shown = os.fsencode(argument)
                message = f"{shown!r} is not UTF-8"
                raise typer.BadParameter(message)
        try:  # help is printed here
            parsed: list[str] = super().parse_args(ctx, args)
        except BrokenPipeError:
            raise _ended_unread(ExitCode.OK) from None
        except (Unwritable, OSError) as error:
            raise _full(error) from None
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run a command; only what nobody foresaw is shown as a traceback, if that is wanted."""
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except Stopped as stopped:
            raise typer.Exit(stopped.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise _ended_unread(ExitCode.OK) from None  # whoever read it has had enough
        except Unwritable as error:
            raise _full(error) from None
        except MillstreamError as error:
            if debug:
                raise
            _tell(words_of(error))
            raise typer.Exit(exit_code_of(error)) from None
        except (typer.Exit, typer.Abort, TyperException):
            raise  # Typer's own way to end, for instance by wrong usage
        except Exception as error:
            if debug:
                raise
            _tell(f"{type(error).__name__}: {error} (`millstream --debug …` shows where)")
            raise typer.Exit(ExitCode.FAILED) from None


app = typer.Typer(
    name="millstream",
    cls=_Commands,
    help="An event-driven runtime for LLM agents on Apache Kafka.",
    epilog=f"{EXIT_CODES_HELP}.",
    no_args_is_help=True,
    # Rich's boxes break what a docstring breaks, and are unreadable in a narrow terminal.
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:  # noqa: FBT001  Typer calls it
    if value:
        print_data(f"millstream {__version__} ({HOME})")
        raise typer.Exit(ExitCode.OK)


@app.callback()
def _options(
    debug: Annotated[  # noqa: FBT002  Typer makes a flag of it
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[  # noqa: ARG001, FBT002  as above
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    # For a command only: the version and the list of commands need none of it.
    from millstream.streams.settings import Settings  # noqa: PLC0415  slow to import
    from millstream.streams.telemetry.logs import configure_logging  # noqa: PLC0415  as above

    # Libraries' own words on a broker that does not answer would stand above ours.
    quiet = Settings.model_construct(log_level="debug" if debug else "warning")
    configure_logging(quiet, libraries_level=logging.CRITICAL)


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="millstream")


def _ended_unread(code: ExitCode) -> typer.Exit:
    """End where standard output takes no more: as in `millstream history | head`."""
    # What is still buffered would fail again when Python flushes it at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return typer.Exit(code)


def _full(error: Unwritable | OSError) -> typer.Exit:
    """End where standard output takes no more, as on a full disk, and say so."""
    told = (
        f"standard output cannot be written: {error.strerror}"
        if isinstance(error, OSError)
        else str(error)
    )
    _tell(told)
    return _ended_unread(ExitCode.FAILED)


def exit_code_of(error: MillstreamError) -> ExitCode:
    """Give the exit code of a command that ended by this error, also if that was a child's."""
    from millstream.gateway.processes.children import ChildEnded  # noqa: PLC0415  slow to import

    if isinstance(error, ChildEnded) and error.exit_code == ExitCode.UNAVAILABLE:
        return ExitCode.UNAVAILABLE  # as the launcher or the worker found it
    return exit_code_of_error(error)


def words_of(error: MillstreamError) -> str:
    """Give what is told of an error, and what to do about it."""
    if isinstance(error, NoSuchTopic):
        # It is what every command meets while the worker that creates topics is being started.
        from millstream.gateway.client_settings import (  # noqa: PLC0415  slow to import
            UP_STARTS,
            is_up_starting,
            local_settings,
        )

        if is_up_starting(local_settings()):
            return UP_STARTS
    return f"{error}{_remedy(error)}"


def _remedy(error: MillstreamError) -> str:
    """Say what to do about a service that is away: its error says only that it is."""
    away = isinstance(error, ServiceUnavailable)
    return "; `millstream doctor` looks at Kafka, Redis and the settings" if away else ""


def _tell(message: str) -> None:
    console = progress_console()
    console.print("error:", style="bold red", end=" ")
    console.print(harmless(message))
