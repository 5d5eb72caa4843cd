"""Command line: python -m numbabn demo."""

from __future__ import annotations

import argparse
import sys

from . import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 on success, 1 if a check is off, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m numbabn", description="Batch normalization on NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"numbabn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="train, evaluate and differentiate a batch; check it against NumPy; time it")
    parser.parse_args(arguments)
    from . import _demo

    return _demo.main()


if __name__ == "__main__":
    sys.exit(main())
