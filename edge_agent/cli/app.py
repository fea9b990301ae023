"""The application: finds the verbs, runs one, and prints what went wrong.

Exit codes: 0 ok, 1 other, 2 usage, 3 configuration, 4 instrument, 5 target, 6 permission, 7 integrity, 8 disk, 130 interrupted.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import cast

import typer

from edge_agent.cli import output, verbs
from edge_agent.errors import EdgeAgentError, UsageError
from edge_agent.words import t

DEBUG = "EDGE_AGENT_DEBUG"
"""Set, it makes an unexpected error show its traceback."""

INTERRUPTED = 130

_Usage = cast(tuple[type[Exception], ...], typer.BadParameter.__bases__)
"""What typer raises for a wrong command line; its module is not the same in all versions of typer."""


def build(verb: str = "") -> typer.Typer:
    """The application with every verb of ``edge_agent/cli/verbs``, or only with ``verb`` where there is one: that takes half the time.

    A module there has ``register(app)``.
    """
    app = typer.Typer(
        name="edge-agent",
        add_completion=False,
        pretty_exceptions_enable=False,
        help=t("Streams instrument output into signed HDF5 chunks and lands it in the project space, with proof."),
    )
    app.callback(invoke_without_command=True)(_without_verb)
    names = sorted(found.name for found in pkgutil.iter_modules(verbs.__path__))
    asked = verb.replace("-", "_")
    for name in [asked] if asked in names else names:
        import_module(f"{verbs.__name__}.{name}").register(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; prints errors; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console that lacks a character shows "?" instead of failing
            stream.reconfigure(errors="replace")
    command = typer.main.get_command(build(*arguments[:1]))
    try:
        code = command.main(arguments, prog_name="edge-agent", standalone_mode=False)
        if code == INTERRUPTED:  # some versions of typer turn Ctrl-C into this exit code, others raise
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except EdgeAgentError as e:
        return output.error(e, as_json=as_json)
    except _Usage as e:
        return output.error(_usage_error(e), as_json=as_json)
    except (typer.Abort, KeyboardInterrupt):
        output.note(t("Interrupted."))
        return INTERRUPTED
    except Exception as e:
        if os.environ.get(DEBUG):
            raise
        return output.error(_unexpected(e), as_json=as_json)


def _without_verb(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        output.say(context.get_help())


def _usage_error(error: Exception) -> EdgeAgentError:
    """Typer's words, without the traceback and boxes."""
    message = str(getattr(error, "format_message", lambda: error)())
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "edge-agent"
    return UsageError(message, try_=f"{path} --help")


def _unexpected(error: Exception) -> EdgeAgentError:
    return EdgeAgentError(
        t("Something happened that nobody foresaw."),
        why=f"{type(error).__name__}: {error}",
        try_=t("set {variable}=1 and run it again; report what it then says", variable=DEBUG),
        code="UNEXPECTED",
    )
