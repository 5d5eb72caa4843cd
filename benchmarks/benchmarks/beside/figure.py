"""The figure: for each case and operation, the fraction of what memory allows, and the ratio to PyTorch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .rows import Row

# Okabe and Ito's colours, which all eyes tell apart; the marks say it again without colour.
STYLES = {
    "training": ("#0072B2", "o"),
    "eval": ("#E69F00", "s"),
    "backward": ("#009E73", "^"),
    "moments": ("#CC79A7", "D"),
    "normalize": ("#56B4E9", "v"),
    "layer-training": ("#D55E00", "P"),
    "layer-eval": ("#000000", "X"),
}


def draw(table: list[Row], path: Path) -> None:
    """Write it in the format that the name ends in."""
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "numbabn"  # equal figures are equal files
    names = list(dict.fromkeys(_name(row) for row in table))
    figure = import_module("matplotlib.figure").Figure(figsize=(10, 1.8 + 0.24 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, table, names, "fraction", "fraction of the limit set by a copy")
    _panel(right, table, names, "beside_torch", "PyTorch's time over numbabn's")
    left.set_xlim(left=0)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_ylim(len(names) - 0.5, -0.5)
    if any(row.beside_torch is not None for row in table):
        right.set_xscale("log")
        right.xaxis.set_major_formatter("{x:g}")
    handles = [_mark(left, operation) for operation in STYLES if any(row.operation == operation for row in table)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata)


def _panel(axes: Any, table: list[Row], names: list[str], figure: str, label: str) -> None:
    """One mark a row; the line at 1 is a tie."""
    for operation, (color, mark) in STYLES.items():
        found = [(getattr(row, figure), names.index(_name(row))) for row in table if row.operation == operation]
        points = [point for point in found if point[0] is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), c=color, marker=mark, s=22, zorder=3)
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_xlabel(label)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _mark(axes: Any, operation: str) -> Any:
    """An entry of the legend, drawn nowhere else."""
    color, mark = STYLES[operation]
    return axes.scatter([], [], c=color, marker=mark, s=22, label=operation)


def _name(row: Row) -> str:
    return f"{row.case.layout}  {row.case.dimensions}"
