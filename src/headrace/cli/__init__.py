"""The command line: ``headrace stream``, ``load``, ``show``, ``expire``, ``doctor``, ``plugins``, ``demo``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit; see `headrace.cli.exits` for the codes."""
    try:
        # imported although only some commands need them: what is missing is said before anything is begun
        import rich  # noqa: F401, PLC0415
        import structlog  # noqa: F401, PLC0415
        import typer  # noqa: F401, PLC0415
    except ModuleNotFoundError as exc:
        print(
            f"the command line needs {exc.name}, which is not installed: pip install 'headrace[cli]'", file=sys.stderr
        )
        sys.exit(2)
    from headrace.cli.app import run  # noqa: PLC0415 - needs the three

    sys.exit(run())
