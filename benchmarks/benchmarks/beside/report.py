"""The table as text, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .rows import Row, Summary
from .run import Result

HEADS = (
    "layout",
    "shape",
    "MB",
    "operation",
    "us",
    "default us",
    "in place us",
    "GB/s",
    "limit",
    "vs torch",
    "vs best",
    "best peer",
)
MEAN_HEADS = ("layout", "operation", "limit", "least", "vs torch", "least", "vs best", "least")
_LEFT = {"layout", "shape", "operation", "best peer"}


def cells(row: Row) -> list[str]:
    """One row as text; a dash where there is no figure."""
    return [
        row.case.layout,
        row.case.dimensions,
        f"{row.case.nbytes / 1e6:.3g}",
        row.operation,
        _microseconds(row.ours),
        _microseconds(row.default),
        _microseconds(row.in_place),
        _number(row.rate, 1e-9, ".1f"),
        _number(row.fraction, 100, ".0f", "%"),
        _number(row.beside_torch, 1, ".2f"),
        _number(row.beside_best, 1, ".2f"),
        row.best or "-",
    ]


def mean_cells(summary: Summary) -> list[str]:
    """One summary as text: mean and least of each figure."""
    found = [summary.layout, summary.operation]
    for name, spread in summary.figures.items():
        form = (100.0, ".0f", "%") if name == "fraction" else (1.0, ".2f", "")
        found += [_number(value, *form) for value in spread or (None, None)]
    return found


def text(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    """Columns of equal width, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if head in _LEFT else cell.rjust(width)
            for head, cell, width in zip(heads, line, widths, strict=True)
        ).rstrip()
        for line in (list(heads), *lines)
    )


def write_csv(path: Path, heads: tuple[str, ...], lines: list[list[str]]) -> None:
    """The same cells."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *lines])


def write_json(path: Path, facts: dict[str, object], results: Iterable[Result], table: list[Row]) -> None:
    """All quartiles, and the rows as numbers."""
    content = facts | {"results": [asdict(result) for result in results], "rows": [asdict(row) for row in table]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:,.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:.1f}"


def _number(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value * scale:{form}}{unit}"
