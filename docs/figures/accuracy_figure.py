"""Measure accuracy beside PyTorch and write what docs/numerics.rst shows: a table and a figure.

    python docs/figures/accuracy_figure.py

The data, the reference and the cases are those of benchmarks/accuracy.py. PyTorch is needed here alone: the results are
kept in docs/_generated, and the documentation is built from them.
"""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

import numbabn as nb

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS / "_generated"
BAR = 1e-6  # error that every float32 kernel owes, for |y| up to 4
COLORS = {"torch": "#5b6770", "numbabn": "#d1495b"}
MARKERS = "os^"

sys.path.insert(0, str(DOCS.parent / "benchmarks"))
cases: Any = import_module("accuracy")


def write_table(errors: dict[tuple[str, str], list[float]], path: Path) -> None:
    """One row a mean, one column a library and layout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["mean / std", *(f"{who} {layout}" for who, layout in errors)])
        for mean, row in zip(cases.MEANS, zip(*errors.values(), strict=True), strict=True):
            writer.writerow([f"{mean:,}", *(f"{error:.0e}" for error in row)])


def draw(errors: dict[tuple[str, str], list[float]], path: Path) -> None:
    """Error over mean, both on logarithmic scales; the mean 0 stands at the left end."""
    mpl.rcParams["svg.hashsalt"] = "numbabn"  # the same file from run to run
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    positions = range(len(cases.MEANS))
    for k, ((who, layout), values) in enumerate(errors.items()):
        line = "-" if who == "numbabn" else "--"
        axes.plot(
            positions,
            values,
            line,
            color=COLORS[who],
            marker=MARKERS[k % len(MARKERS)],
            markersize=4,
            label=f"{who}, {layout}",
        )
    axes.axhline(BAR, color="0.6", linewidth=1, linestyle=":")
    axes.annotate("bar, 1e-6", (positions[-1], BAR), xytext=(0, 3), textcoords="offset points", ha="right", color="0.4")
    axes.set_yscale("log")
    axes.set_xticks(positions, [f"{mean:,}" for mean in cases.MEANS])
    axes.set_xlabel("mean of the data, in standard deviations")
    axes.set_ylabel("largest error of y")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> int:
    """Measure, write, say where."""
    errors = cases.measure()
    RESULTS.mkdir(exist_ok=True)
    write_table(errors, RESULTS / "accuracy.csv")
    draw(errors, RESULTS / "accuracy.svg")
    versions = f"numbabn {nb.__version__}, PyTorch {torch.__version__.split('+')[0]}, NumPy {np.__version__}\n"
    (RESULTS / "versions.txt").write_text(versions, encoding="utf-8")
    print(f"accuracy.csv, accuracy.svg and versions.txt are in {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
