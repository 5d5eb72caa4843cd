"""What docs/performance.rst shows: tables, figure, and what they were measured with."""

from __future__ import annotations

from pathlib import Path

from . import figure, machine
from .report import HEADS, MEAN_HEADS, cells, mean_cells, write_csv
from .rows import Row, summaries

LOST_HEADS = ("layout", "shape", "operation", "fastest", "its time over ours")


def write(folder: Path, table: list[Row], peers: list[str]) -> None:
    """All files, their names beginning with performance."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "performance.csv", HEADS, [cells(row) for row in table])
    write_csv(folder / "performance_means.csv", MEAN_HEADS, [mean_cells(summary) for summary in summaries(table)])
    write_csv(folder / "performance_lost.csv", LOST_HEADS, lost(table))
    figure.draw(table, folder / "performance.svg")
    (folder / "performance_machine.txt").write_text(machine.sentence(peers) + "\n", encoding="utf-8")


def lost(table: list[Row]) -> list[list[str]]:
    """Rows in which a peer is faster; a row that says so if there are none."""
    found = [
        [row.case.layout, row.case.dimensions, row.operation, str(row.best), f"{row.beside_best:.2f}"]
        for row in table
        if row.lost
    ]
    return found or [["none", *["-"] * (len(LOST_HEADS) - 1)]]
