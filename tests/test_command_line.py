"""The command line as users start it: in other folders, with empty and full caches, into pipes that close."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import fresh
import pytest

import numbabn
from numbabn import _compile

MODULE = (sys.executable, "-m", "numbabn")


def environment(folder: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's environment without settings of ours and of Numba, but for the cache, which is in `folder`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(fresh.SETTINGS)}
    places = [str(fresh.package_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": fresh.WARNINGS, "PYTHONDONTWRITEBYTECODE": "1"}
    return inherited | own | {"NUMBA_CACHE_DIR": str(folder / "cache"), "NUMBA_NUM_THREADS": "2"} | dict(settings or {})


def start(
    folder: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    program: tuple[str, ...] = MODULE,
    arrange: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`."""
    return subprocess.run(
        [*program, *arguments],
        cwd=folder,
        env=environment(folder, settings),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=arrange,
    )


def info(folder: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `info` prints, by the name before it."""
    done = start(folder, "info", settings=settings)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(re.match(r".{15} \S", line) for line in lines), "facts stand below each other"
    return {line[:16].strip(): line[16:] for line in lines}


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--version"], f"^numbabn {re.escape(numbabn.__version__)}\n$"),
        (["--help"], r"usage: numbabn (.|\n)*demo (.|\n)*info (.|\n)*warmup "),
        (["info", "--help"], "usage: numbabn info "),
        (["warmup", "--help"], r"--dtype \{float32,float64,all\}"),
    ],
)
def test_help_goes_to_stdout(arguments: list[str], text: str, tmp_path: Path) -> None:
    done = start(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(text, done.stdout)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([], {}, "the following arguments are required: COMMAND"),
        (["inform"], {}, "invalid choice: 'inform'"),
        (["info", "more"], {}, "unrecognized arguments: more"),
        (["warmup", "--dtype", "float16"], {}, "argument --dtype: invalid choice: 'float16'"),
        (["info"], {"NUMBABN_THREADS": "0"}, "environment variable NUMBABN_THREADS must be an integer >= 1, got '0'"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], settings: dict[str, str], message: str, tmp_path: Path) -> None:
    done = start(tmp_path, *arguments, settings=settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: numbabn ")
    assert message in done.stderr.splitlines()[-1]


def test_help_loads_neither_numpy_nor_numba() -> None:
    code = """
        import sys
        from numbabn.__main__ import main
        try:
            main(["--help"])
        except SystemExit as end:
            assert end.code == 0
        assert not {"numpy", "numba"} & set(sys.modules)
    """
    fresh.run(code, None, silent=True)


def test_the_console_script_gives_the_same(tmp_path: Path) -> None:
    script = shutil.which("numbabn", path=Path(sys.executable).parent)
    if script is None:
        pytest.skip("the package is not installed beside this Python")
    for arguments in (["--version"], ["warmup", "--dtype", "int8"]):
        done, expected = (start(tmp_path, *arguments, program=p) for p in ((script,), MODULE))
        assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    assert start(tmp_path, "warmup", program=(script,), settings={"NUMBABN_CACHE": "0"}).returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="broken pipes have another error there")
def test_a_reader_that_has_left_is_no_news(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*MODULE, "info"],
            env=environment(tmp_path),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=600,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_names_what_is_installed_and_what_it_runs_on(tmp_path: Path) -> None:
    facts = info(tmp_path, {"NUMBABN_PARALLEL_THRESHOLD": "77", "NUMBABN_RECYCLE_LIMIT": "88"})
    assert facts["Python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("numbabn", "NumPy", "Numba", "llvmlite"):
        assert facts[name] == (numbabn.__version__ if name == "numbabn" else version(name))
    assert re.fullmatch(r"\S+, vectors of (128|256|512) bits", facts["CPU"])
    assert re.fullmatch(r"2, layer (tbb|omp|workqueue)", facts["threads"])
    assert "parallel_threshold=77" in facts["settings"] and "recycle_limit=88" in facts["settings"]
    if find_spec("numba_cuda") is None:
        assert facts["CUDA"] == "no: numba-cuda is not installed"
    else:
        assert facts["CUDA"].removeprefix("no: ")


@pytest.mark.parametrize(
    ("settings", "name", "fact"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, "CPU", "generic, vectors of 128 bits"),
        ({"NUMBABN_THREADS": "1"}, "threads", "1, layer "),
        ({"NUMBA_THREADING_LAYER": "workqueue"}, "threads", "2, layer workqueue"),
        ({"NUMBABN_CACHE": "0"}, "cache", "none: switched off by NUMBABN_CACHE"),
        ({"NUMBA_DISABLE_JIT": "1"}, "cache", "none: nothing is compiled where NUMBA_DISABLE_JIT is set"),
        ({"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}, "cache", "none: cannot cache function "),
    ],
)
def test_info_follows_the_settings(settings: dict[str, str], name: str, fact: str, tmp_path: Path) -> None:
    assert info(tmp_path, settings)[name].startswith(fact)


@pytest.mark.skipif(find_spec("tbb") is not None, reason="TBB is installed")
def test_info_goes_on_where_no_threads_can_be_started(tmp_path: Path) -> None:
    facts = info(tmp_path, {"NUMBA_THREADING_LAYER": "tbb"})
    assert facts["threads"] == "none: No threading layer could be loaded."
    assert facts["CUDA"]


def test_info_tells_code_of_this_version_from_other_code(tmp_path: Path) -> None:
    before = info(tmp_path)
    place, writable, _ = before["cache"].partition(" (writable)")
    assert writable and Path(place).is_relative_to(tmp_path / "cache")
    assert re.fullmatch(r"0 of \d+ kernels, 0 files, 0.0 MB", before["this version"])
    assert before["others"] == "0 kernels, 0 files, 0.0 MB"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    for salt, tag in ((_compile.salt, python), (_compile.salt, "py27"), ("0" * 12, python)):
        for ending in ("nbi", "1.nbc", "2.nbc"):  # code for two processors
            (Path(place) / f"pointwise.invert_float64_serial_{salt}-36.{tag}.{ending}").write_bytes(bytes(200_000))
    (Path(place) / "pointwise.cpython.pyc").touch()
    after = info(tmp_path)
    assert after["this version"] == before["this version"].replace("0", "1", 1).replace("0 files, 0.0", "3 files, 0.6")
    assert after["others"] == "2 kernels, 6 files, 1.2 MB"


# -- warmup ------------------------------------------------------------------------------------------------------------

CALLS = """
    from numba.core import event
    import calls
    with event.install_recorder("numba:compile") as recorder:
        {call}
    print(len(recorder.buffer))
"""


def compilations(folder: Path, call: str) -> int:
    """How many compilations a call's process needs with the cache in `folder`."""
    return int(fresh.run(CALLS.format(call=call), folder / "cache", {"NUMBA_NUM_THREADS": "2"}))


def warmup(folder: Path, *arguments: str) -> tuple[int, int]:
    """How many kernels were compiled and how many were there, as `warmup` says at its end."""
    done = start(folder, "warmup", *arguments)
    assert done.returncode == 0, done.stderr
    end = re.fullmatch(r"(\d+) kernels compiled, (\d+) already there, \d+\.\d s: (.+)\n", done.stdout)
    assert end and Path(end[3]).is_relative_to(folder / "cache")
    compiled, found = int(end[1]), int(end[2])
    total = compiled + found
    assert f"{total}/{total}" in done.stderr or f"{total} of {total} kernels\n" in done.stderr
    return compiled, found


def test_after_a_warmup_nothing_is_compiled(tmp_path: Path, warm: Path) -> None:
    compiled, found = warmup(tmp_path, "--dtype", "float32")
    assert compiled > 20 and found == 0
    assert compilations(tmp_path, "calls.everything(['f4'])") == 0
    shutil.copytree(warm, tmp_path / "cache", dirs_exist_ok=True)  # all that calls need, of both dtypes
    nothing, total = warmup(tmp_path)
    assert nothing == 0 and compiled + 20 < total < 2 * compiled
    assert compilations(tmp_path, "calls.everything(['f4', 'f8'])") == 0
    assert warmup(tmp_path, "--dtype", "float64", "--dtype", "float32") == (0, total)
    assert info(tmp_path)["this version"].startswith(f"{total} of {total} kernels, {2 * total} files, ")


def test_compilations_would_be_seen(tmp_path: Path) -> None:
    assert compilations(tmp_path, "calls.check(number=1)") > 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"NUMBABN_CACHE": "0"}, "switched off by NUMBABN_CACHE"),
        ({"NUMBA_DISABLE_JIT": "1"}, "nothing is compiled where NUMBA_DISABLE_JIT is set"),
        ({"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}, "cannot cache function .*: no locator available .*"),
    ],
)
def test_a_warmup_without_a_cache_fails(settings: dict[str, str], reason: str, tmp_path: Path) -> None:
    done = start(tmp_path, "warmup", settings=settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"numbabn: no cache to warm up: {reason}\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="file size limit")
def test_a_warmup_onto_a_full_disk_fails(tmp_path: Path) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = start(tmp_path, "warmup", "--dtype", "float32", arrange=limit)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match("numbabn: a kernel could not be kept in .*: the disk is full", done.stderr.splitlines()[-1])
