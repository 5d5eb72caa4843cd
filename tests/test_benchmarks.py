"""The benchmarks: all sides do the same work, and the comparison writes what it promises."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
PASSES = ("training", "eval", "backward")
LAYOUTS = {"nchw": (4, 3, 9, 7), "nhwc": (4, 3, 9, 7), "nc": (32, 8), "small": (4, 3, 5, 5)}


def modules(*names: str) -> Any:
    """Modules of the package that compare.py and the asv suite share."""
    return [import_module(f"benchmarks.beside.{name}") for name in names]


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBABN_BENCH_SMALL", "1")
    monkeypatch.syspath_prepend(FOLDER)


def batch_of(layout: str, dtype: str) -> Any:
    """A batch with parameters and statistics that are not 1 and 0."""
    (module,) = modules("batch")
    b = module.Batch(module.Case(layout, LAYOUTS[layout], dtype))
    rng = np.random.default_rng(1)
    for name in ("weight", "bias", "mean", "var"):
        getattr(b, name)[...] = rng.uniform(0.5, 1.5, b.channels)
    b.running_mean[...], b.running_var[...] = b.mean, b.var
    return b


def first(result: Any, b: Any) -> Any:
    """y or dx of a call, channels on axis 1."""
    value = result[0] if isinstance(result, tuple | list) else result
    array = np.array(value.numpy() if hasattr(value, "numpy") else value)
    return array if array.shape == b.x.shape else np.moveaxis(array, -1, 1)


# -- contenders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_torch_do_the_same(dtype: str, layout: str) -> None:
    ours, peers = modules("ours", "peers")
    names = [name for name in ("numpy", "torch") if name in peers.installed()]
    for operation in PASSES:
        b = batch_of(layout, dtype)
        expected = first(ours.calls(b)[operation]["out"](), b), b.running_mean, b.running_var
        for name in names:
            for way in peers.PEERS[name].calls(batch_of(layout, dtype))[operation]:
                b = batch_of(layout, dtype)
                got = first(peers.PEERS[name].calls(b)[operation][way](), b), b.running_mean, b.running_var
                for mine, theirs in zip(expected, got, strict=True):
                    np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-5, err_msg=f"{name} {way} {operation}")
                assert got[0].dtype == dtype


@pytest.mark.parametrize("way", ["default", "in place"])
@pytest.mark.parametrize("operation", [*PASSES, "normalize"])
def test_our_ways_do_the_same(operation: str, way: str) -> None:
    (ours,) = modules("ours")
    b, again = (batch_of("nhwc", "float32") for _ in range(2))
    expected = first(ours.calls(b)[operation]["out"](), b)
    np.testing.assert_array_equal(first(ours.calls(again)[operation][way](), again), expected)


OTHERS = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from benchmarks.beside import ours, peers
from benchmarks.beside.batch import Batch, Case

def first(result):
    return np.array(result[0] if isinstance(result, tuple | list) else result)

checked = 0
for layout, shape in (("nchw", (4, 3, 9, 7)), ("nhwc", (4, 3, 9, 7)), ("nc", (32, 8))):
    for name in sys.argv[2:]:
        b = Batch(Case(layout, shape))
        for operation, ways in peers.PEERS[name].calls(b).items():
            expected = b.natural(first(ours.calls(b)[operation]["out"]()))
            for call in ways.values():
                b.out[...] = np.nan
                said = f"{name} {operation} {layout}"
                np.testing.assert_allclose(first(call()), expected, rtol=1e-4, atol=1e-5, err_msg=said)
                checked += 1
print(checked)
"""


def test_other_peers_do_the_same() -> None:
    (peers,) = modules("peers")
    names = [name for name in peers.installed() if name not in ("numpy", "torch")]
    if not names:
        pytest.skip("none is installed: pip install '.[peers]'")
    command = [sys.executable, "-c", OTHERS, str(FOLDER), *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= len(names)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 1000, 5003])
@pytest.mark.parametrize("streamed", [False, True])
def test_copies_copy(streamed: bool, size: int) -> None:
    (copies,) = modules("copies")
    for dtype in (np.float32, np.float64):
        for offset in (0, 3):
            x = np.random.default_rng(0).standard_normal(size + offset).astype(dtype)[offset:]
            y = np.full(size + offset + 8, np.nan, dtype)
            copies.copy(x, y[offset : size + offset], streamed)
            np.testing.assert_array_equal(y[offset : size + offset], x)
            assert np.isnan(y[:offset]).all() and np.isnan(y[size + offset :]).all()


def test_the_suite_has_every_layout_and_fits_its_own_calls() -> None:
    cases = import_module("benchmarks.cases")
    assert {case.layout for case in cases.CASES.values()} == {"nchw", "nhwc", "nc"}
    assert {case.dtype for case in cases.CASES.values()} == {"float32", "float64"}


# -- the comparison ----------------------------------------------------------------------------------------------------


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of compare.py."""
    command = [sys.executable, str(FOLDER / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Output and folder of one run on tiny shapes, beside all that is installed."""
    missing = [name for name in ("tqdm", "matplotlib") if not find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[bench]'")
    folder = tmp_path_factory.mktemp("compared")
    files = ("--json", folder / "run.json", "--csv", folder / "run.csv", "--plot", folder / "run.png")
    ran = compare("--shape", "4x3x9x9", "16x3", "--rounds", "1", *files, "--docs", folder / "docs")
    assert ran.returncode == 0, ran.stderr
    assert "round" in ran.stderr, "no progress bar"
    return ran.stdout, folder


def test_the_table_has_every_row(run: tuple[str, Path]) -> None:
    output, folder = run
    with (folder / "run.csv").open(encoding="utf-8") as file:
        heads, *lines = csv.reader(file)
    rows = [dict(zip(heads, line, strict=True)) for line in lines]
    assert heads[:5] == ["layout", "shape", "MB", "operation", "us"]
    assert len(rows) == 3 * 5 + 2 * 7
    for row in rows:
        assert float(row["us"].replace(",", "")) > 0
        assert f"{row['layout']:6}" in output and row["operation"] in output
        measured = row["layout"] != "small"
        assert (row["limit"] != "-") == measured
        has_ratio = find_spec("torch") is not None and row["operation"] != "normalize"
        assert (row["vs torch"] != "-") == has_ratio
    assert "Geometric mean and least" in output


def test_the_record_has_everything(run: tuple[str, Path]) -> None:
    (peers,) = modules("peers")
    record = json.loads((run[1] / "run.json").read_text(encoding="utf-8"))
    assert set(record) == {"date", "machine", "versions", "settings", "results", "rows"}
    assert set(peers.installed()) <= set(record["versions"]) and record["settings"]["rounds"] == 1
    assert record["machine"]["processor"] and record["machine"]["cores"] >= 1
    for result in record["results"]:
        assert {"numpy", "stores", "streamed"} <= set(result["copies"]) or result["case"]["layout"] == "small"
        for sides in result["operations"].values():
            assert "numbabn" in sides
            for ways in sides.values():
                for times in ways.values():
                    low, middle, high = times["quartiles"]
                    assert 0 < low <= middle <= high and times["readings"] >= 1
    for row in record["rows"]:
        fraction = row["fraction"]
        assert fraction is None or 0 < fraction < 10


def test_the_figure_and_the_pages_are_there(run: tuple[str, Path]) -> None:
    folder = run[1]
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    docs = folder / "docs"
    assert {path.name for path in docs.iterdir()} == {
        "performance.csv",
        "performance.svg",
        "performance_lost.csv",
        "performance_machine.txt",
        "performance_means.csv",
    }
    assert "<svg" in (docs / "performance.svg").read_text(encoding="utf-8")
    assert (docs / "performance.csv").read_text() == (folder / "run.csv").read_text()
    shipped = FOLDER.parent / "docs" / "_generated"
    for path in docs.glob("*.csv"):
        assert (shipped / path.name).read_text().splitlines()[0] == path.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "torch,caffe"), "unknown peer caffe: choose from torch"),
        (("--peers", ""), "unknown peer ''"),
        (("--shape", "32,64"), "'32,64' is no shape"),
        (("--shape", "1x64"), "one value a channel"),
        (("--shape", "4x3x9x9", "--layout", "nc"), "shape 4x3x9x9 fits none of the layouts nc"),
        (("--rounds", "0"), "'0' is no number of rounds"),
        (("--layout", "chwn"), "invalid choice: 'chwn'"),
        (("--csv", "no_such_folder/table.csv", "--peers", "numpy"), "no folder no_such_folder"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed: pip install '.[bench]'")
    ran = compare(*arguments)
    assert ran.returncode == 2
    assert message in ran.stderr and "Traceback" not in ran.stderr


WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("compare.py")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def compare_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of compare.py where a package is not installed."""
    command = [sys.executable, "-c", WITHOUT, package, str(FOLDER / "compare.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("jax", ("--peers", "numpy,jax")), ("tqdm", ("--peers", "numpy")), ("matplotlib", ("--plot", "plot.png"))],
)
def test_what_is_missing_is_named(package: str, arguments: tuple[str, ...]) -> None:
    if package == "matplotlib":
        pytest.importorskip("tqdm", reason="tqdm is not installed: pip install '.[bench]'")
    ran = compare_without(package, *arguments)
    assert ran.returncode == 2
    assert f"not installed: {package}; try: pip install {package}" in ran.stderr and "Traceback" not in ran.stderr


def test_it_works_without_torch() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed: pip install '.[bench]'")
    ran = compare_without("torch", "--shape", "16x3", "--layout", "nc", "small", "--rounds", "1")
    assert ran.returncode == 0, ran.stderr
    assert "numpy" in ran.stdout and "torch 2" not in ran.stdout


def test_rows_without_peers() -> None:
    run, rows, grid, batch = modules("run", "rows", "grid", "batch")
    result = run.one(batch.Case("nc", (16, 3)), list(grid.OPERATIONS), [], 1)
    table = rows.rows([result])
    assert [row.operation for row in table] == list(grid.MOVES)
    assert all(row.beside_torch is row.beside_best is row.best is None and not row.lost for row in table)
    assert all(summary.figures["beside_torch"] is None for summary in rows.summaries(table))
