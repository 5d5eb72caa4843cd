"""Time numbabn beside its peers and beside a copy, in one run, and print a table.

    python benchmarks/compare.py
    python benchmarks/compare.py --layout nchw --operation training eval --shape 32x64x56x56 --rounds 5
    python benchmarks/compare.py --docs docs/_generated

All contenders work on the same arrays and take turns in rounds: where the side changes, a pause in which the other
side's threads fall asleep; one untimed call; then timed calls for 10 ms. The table has lower quartiles. numbabn writes
to a reused output (`us`), returns a new one (`default us`) and works in place; a peer's best way counts. `limit` is the
fraction of the speed that the best copy of the same array allows, each operand moved once; ratios are the other's time
over numbabn's. Small calls are timed 200 to a reading of the clock, layers with them.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.beside import figure, machine, pages, peers, report, rows, run
from benchmarks.beside.batch import Case
from benchmarks.beside.grid import OPERATIONS, SHAPES, Shape, cases


def main() -> int:
    """Measure, print, write what was asked for."""
    parser = _parser()
    options = parser.parse_args()
    try:
        sides = peers.chosen(options.peers) if options.peers is not None else peers.installed()
        grid = _grid(options)
        _check_tools(options)
        _check_folders(options)
    except ValueError as error:
        parser.error(str(error))
    results = list(run.grid(grid, options.operation, sides, options.rounds))
    table = rows.rows(results)
    lines = [report.cells(row) for row in table]
    print(machine.sentence(sides))
    print(report.text(report.HEADS, lines))
    print("\nGeometric mean and least over the shapes")
    print(report.text(report.MEAN_HEADS, [report.mean_cells(summary) for summary in rows.summaries(table)]))
    if options.json:
        settings = {"rounds": options.rounds, "peers": sides}
        report.write_json(options.json, machine.facts(sides) | {"settings": settings}, results, table)
    if options.csv:
        report.write_csv(options.csv, report.HEADS, lines)
    if options.plot:
        figure.draw(table, options.plot)
    if options.docs:
        pages.write(options.docs, table, sides)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(peers.PEERS)}; default: all that are installed")
    parser.add_argument("--layout", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--operation", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument(
        "--shape", nargs="+", type=_shape, default=[], metavar="NxCxHxW", help="instead of the grid; channels second"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=_positive, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all quartiles, machine and versions")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the figure: .png, .svg, .pdf")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="all that the performance page shows")
    return parser


def _shape(text: str) -> Shape:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: expected two extents or more, such as 32x64x56x56")
    shape = tuple(map(int, text.split("x")))
    if Case("", shape).size == shape[1]:
        raise argparse.ArgumentTypeError(f"{text!r} has one value a channel: training needs more")
    return shape


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: expected 1 or more")
    return int(text)


def _grid(options: argparse.Namespace) -> list[Case]:
    found = cases(options.layout, options.shape, options.dtype)
    used = {case.shape for case in found}
    for shape in options.shape:
        if shape not in used:
            raise ValueError(f"shape {'x'.join(map(str, shape))} fits none of the layouts {', '.join(options.layout)}")
    return found


def _check_tools(options: argparse.Namespace) -> None:
    needed = ["tqdm", *(["matplotlib"] if options.plot or options.docs else [])]
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}")


def _check_folders(options: argparse.Namespace) -> None:
    for path in filter(None, (options.json, options.csv, options.plot)):
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} to write {path.name} to")


if __name__ == "__main__":
    sys.exit(main())
