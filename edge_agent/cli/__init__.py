"""The command line, ``edge-agent VERB``: one file a verb in ``verbs/``, each with a function ``register(app)``.

A verb imports what it needs inside its function, so that ``edge-agent --help`` stays fast. Errors are raised, not printed: `main`
prints every `EdgeAgentError` in one form and turns its class into the exit code.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` when None); the exit code."""
    from edge_agent.cli.app import run

    return run(arguments)
