"""Command line: numbabn, or python -m numbabn, with demo, info or warmup."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__
from ._forks import load

DTYPES = ("float32", "float64", "all")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 on success, 1 if it fails or a check is off, 2 for wrong usage."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    try:
        load("_config")
    except ValueError as error:  # in an environment variable
        parser.error(str(error))
    try:
        code = int(load(f"_{options.pop('command')}").main(**options))
        print(end="", flush=True)  # here, where an error can be caught
    except BrokenPipeError:
        # The reader has left, as `head` does. Python flushes again at exit: let it have a place that takes everything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="numbabn", description="Batch normalization on NumPy and CUDA arrays.")
    parser.add_argument("--version", action="version", version=f"numbabn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("demo", "train, evaluate and differentiate a batch; check it against NumPy; time it"),
        ("info", "print versions, processor, threads, settings, kernel cache and CUDA devices"),
        ("warmup", "compile every kernel into the cache, so that no later process has to"),
    ):
        commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    commands.choices["warmup"].add_argument(
        "--dtype", action="append", choices=DTYPES, help="arrays to compile for; may be repeated (default: all)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
