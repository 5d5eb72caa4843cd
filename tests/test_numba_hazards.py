"""What Numba does wrong if one lets it: each hazard is set up in fresh interpreters, and must not show."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import fresh
import pytest
from fresh import run

pytestmark = pytest.mark.hazard

CHECK_ONE = "import calls; calls.check(number=1)"
CHECK_ALL = "import calls; calls.check()"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a copy of the package in it."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(fresh.package_root() / "numbabn", tmp_path / "site" / "numbabn", ignore=skip)
    return tmp_path / "site"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# -- code that is out of date ------------------------------------------------------------------------------------------

VALUES = """
import numpy as np, numbabn as nb
m = nb.moments(np.arange(60.0).reshape(3, 5, 4))
print(m.mean.tolist(), m.m2.tolist())
"""
MERGE_ONE_HIGHER = """


{decorator}
def merge(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    delta, share = mean_b - mean_a, count_b / (count_a + count_b)
    return mean_a + delta * share + 1.0, m2_a + m2_b + delta * delta * count_a * share
"""
ROWS_EXCHANGED = "\nMEAN, INVSTD, M2 = INVSTD, M2, MEAN\n"
EDITS = {
    "_scalar.py": MERGE_ONE_HIGHER.format(decorator=""),
    "_cpu/partition.py": MERGE_ONE_HIGHER.format(decorator="@inner"),
    "_geometry.py": ROWS_EXCHANGED,
}


@pytest.mark.parametrize("file", EDITS)
def test_a_changed_helper_is_seen_by_kernels_of_other_files(file: str, site: Path, tmp_path: Path) -> None:
    before = run(VALUES, tmp_path / "warm", site=site)
    assert (site / "numbabn" / file).exists()
    with (site / "numbabn" / file).open("a") as source:
        source.write(EDITS[file])
    after = run(VALUES, tmp_path / "warm", site=site)
    assert after == run(VALUES, tmp_path / "cold", site=site)
    # Kernels and NumPy code agree on the rows of statistics, so that exchanging them must not show.
    assert (after == before) == (EDITS[file] == ROWS_EXCHANGED)


def test_flags_that_the_cache_key_leaves_out_are_seen(tmp_path: Path) -> None:
    code = """
        import numpy as np
        from numbabn._cpu import reduce_first
        x, stats = np.arange(24.0), np.zeros((3, 3))
        try:
            grid = np.array([[2, 3, 4], [6, 12, 4]])  # begins at 6: the last quarter lies behind the array
            reduce_first.moments_long_channels_first.on(1, x)(x, stats, grid)
        except IndexError:
            print("checked")
    """
    assert run(code, tmp_path) == ""
    assert run(code, tmp_path, {"NUMBA_BOUNDSCHECK": "1"}) == "checked\n"
    assert run(code, tmp_path) == ""


# -- many processes, one cache -----------------------------------------------------------------------------------------


def test_processes_race_on_a_cold_cache(tmp_path: Path) -> None:
    code = """
        import pathlib, time
        import numba, calls
        folder = pathlib.Path({folder!r})
        (folder / "ready{turn}").touch()
        while len(list(folder.iterdir())) < 4:  # all start as one
            time.sleep(0.001)
        calls.check({turn})
    """
    (tmp_path / "ready").mkdir()
    cache, folder = tmp_path / "cache", str(tmp_path / "ready")
    racers = [textwrap.dedent(code).format(folder=folder, turn=turn) for turn in range(4)]
    fresh.together(racers, cache)
    written = files(cache)
    # Where an index holds one signature, whoever writes last writes what all others did.
    assert written and not [path.name for path in written if not path.name.endswith((".nbi", ".1.nbc"))]
    run(CHECK_ALL, cache)
    assert files(cache) == written, "a later process compiled again"


# -- nowhere to keep compiled code, or only rubbish there --------------------------------------------------------------

# A module whose function Numba cannot even define where there is no place for its cache.
HAZARD = """
    try:
        import plain
    except RuntimeError as e:
        assert "cache" in str(e)
    else:
        raise SystemExit("Numba found a place for its cache")
"""


@pytest.mark.parametrize("locators", ["UserProvidedCacheLocator", "ZipCacheLocator", "NoSuchLocator"])
def test_no_locator(locators: str, site: Path) -> None:
    (site / "plain.py").write_text("import numba\nnumba.njit(cache=True)(lambda: 1)\n")
    environment = {"NUMBA_CACHE_LOCATOR_CLASSES": locators}
    run((HAZARD, CHECK_ONE), None, environment, site=site, silent=True)


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("cache", [None, "locked", "plain.py"], ids=["unset", "read-only", "a file"])
def test_no_writable_folder(cache: str | None, site: Path) -> None:
    (site / "plain.py").write_text("import numba\nnumba.njit(cache=True)(lambda: 1)\n")
    (site / "locked").mkdir()
    folders = [site, *(path for path in site.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    home = str(site / "locked")
    try:
        place = None if cache is None else site / cache
        environment = {"HOME": home, "XDG_CACHE_HOME": home}
        code = (HAZARD, CHECK_ONE)
        run(code, place, environment, site=site, arrange=fresh.obey_permissions, silent=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="file size limit")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    run(CHECK_ONE, tmp_path, arrange=limit, silent=True)
    assert not [path for path in files(tmp_path) if path.suffix == ".nbc"]
    run(CHECK_ONE, tmp_path, silent=True)


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    run(CHECK_ONE, folder)
    return folder


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "10 bytes": lambda content: content[:10],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
def test_damaged_cache_files(kind: str, damage: str, small_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cache, tmp_path / "cache")
    damaged = [path for path in files(tmp_path / "cache") if path.suffix == kind]
    assert damaged
    for path in damaged:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    run(CHECK_ONE, tmp_path / "cache", silent=True)


def test_cache_files_that_are_gone(small_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cache, tmp_path / "cache")
    for path in files(tmp_path / "cache"):
        if path.suffix == ".nbc":
            path.unlink()
    run(CHECK_ONE, tmp_path / "cache", silent=True)


def test_the_cache_can_be_switched_off(tmp_path: Path) -> None:
    run(CHECK_ONE, tmp_path, {"NUMBABN_CACHE": "0"})
    assert not files(tmp_path)


# -- one compilation a twin --------------------------------------------------------------------------------------------

TWINS = """
    import gc, mmap
    import numpy as np, numbabn as nb, calls
    from numba.core.dispatcher import Dispatcher
    from numbabn._compile import kernel

    def twins():
        objects = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and not d._can_compile]
        return {d.py_func.__qualname__: d for d in objects if d.__module__.startswith("numbabn.")}

    for threads in (1, 2):
        with nb.config.using(threads=threads, parallel_threshold=0):
            calls.digests(calls.SMALL)
    before = twins()
"""


def test_every_twin_has_one_signature_whatever_it_is_called_with(warm: Path) -> None:
    code = """
    def variants(a):
        yield a.copy()
        locked = a.copy()
        locked.flags.writeable = False
        yield locked
        memory = np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
        memory[...] = a
        yield memory
        yield np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)  # read-only, not its own memory
        yield a.copy(order="F")
        yield np.flip(a)
        yield np.repeat(a, 2, 0)[::2]
        yield np.repeat(a, 2, -1)[..., ::2]
        yield np.broadcast_to(a[:1], a.shape)
        yield a.astype(a.dtype.newbyteorder())
        yield np.frombuffer(b" " + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)  # unaligned
        yield a.view(type("Mine", (np.ndarray,), {}))

    for threads in (1, 2):
        with nb.config.using(threads=threads, parallel_threshold=0):
            for case in calls.SMALL.values():
                for dtype in ("f4", "f8"):
                    data = calls.Data(case, dtype)
                    for data.x, data.dy in zip(variants(data.values), variants(data.gradient)):
                        for call in (calls.training, calls.in_steps, calls.evaluation, calls.backward):
                            call(data)
    assert len(before) > 20 and twins().keys() == before.keys(), twins().keys() ^ before.keys()
    for name, twin in twins().items():
        assert twin is before[name] and len(twin.signatures) == 1, (name, twin.signatures)
    """
    run((TWINS, code), warm)


def test_twins_release_the_gil_and_keep_nan_and_division_as_they_are(warm: Path) -> None:
    code = """
    for name, twin in before.items():
        flags = twin.targetoptions
        reads_objects = name.startswith("fit_")  # which no other thread may change meanwhile
        assert flags["nogil"] != reads_objects and flags["error_model"] == "numpy", (name, flags)
        fastmath = flags.get("fastmath") or set()
        assert fastmath is not True and set(fastmath) <= {"reassoc", "contract", "nsz", "arcp"}, (name, flags)
        assert bool(flags.get("parallel")) == ("parallel" in name) != ("serial" in name), (name, flags)
    """
    run((TWINS, code), warm)


def test_a_warm_folder_holds_one_file_a_twin_and_does_not_grow(warm: Path) -> None:
    written = files(warm)
    index = {path.name.removesuffix(".nbi") for path in written if path.suffix == ".nbi"}
    code = {path.name.removesuffix(".1.nbc") for path in written if path.suffix == ".nbc"}
    assert index == code and len(index) > 20 and len(written) == 2 * len(index)
    run("import calls; calls.everything(['f4', 'f8'])", warm, {"NUMBA_NUM_THREADS": "2"})
    assert files(warm) == written


# -- imports -----------------------------------------------------------------------------------------------------------


def test_importing_and_building_layers_imports_nothing_optional() -> None:
    code = """
        import sys
        import numbabn
        for name in numbabn.__all__:
            getattr(numbabn, name)
        numbabn.config.threads
        with numbabn.config.using(threads=1):
            layer = numbabn.BatchNorm1d(3).eval()
        repr(layer), dir(numbabn)
        optional = {"numba", "llvmlite", "torch", "dask", "mpi4py", "cupy", "jax", "scipy", "pandas", "matplotlib"}
        print(sorted(optional & set(sys.modules)))
    """
    assert run(code, None, silent=True) == "[]\n"


def test_nothing_is_compiled_before_the_first_call(tmp_path: Path) -> None:
    code = """
        import gc
        import numbabn.layers, numbabn._cpu
        from numba.core.codegen import CodeLibrary
        from numbabn._compile import kernels
        assert len(kernels) > 10
        print([o for o in gc.get_objects() if isinstance(o, CodeLibrary)])
    """
    assert run(code, tmp_path) == "[]\n"
    assert not files(tmp_path)


# In its own way Numba takes references to arrays; kernels must give back as many. What it leaves behind from compiling
# holds the frames of the call, and so the arrays, until it is collected.
REFERENCES = """
import gc
import numbabn as nb
data = calls.Data(calls.Case((4, 24, 7, 7)), "f4")
out = data.values.copy()
arrays = data.x, data.dy, out, data.weight, data.bias, data.mean, data.invstd
before = [sys.getrefcount(a) for a in arrays]
with nb.config.using(threads=2, parallel_threshold=0):
    calls.training(data, None, out)
    nb.batch_norm_backward(data.dy, data.x, data.weight, data.mean, data.invstd, out=out)
gc.collect()
assert [sys.getrefcount(a) for a in arrays] == before
"""


def test_arrays_that_cannot_be_read_where_they_lie_are_taken_as_numba_does(tmp_path: Path) -> None:
    code = """
        import calls
        print(_objects.KNOWN, calls.digests({name: calls.SMALL[name] for name in ("first", "spaced")}, ["f4"]))
    """
    before = "import sys; from numbabn import _objects"
    known = run((before, code), tmp_path, timeout=300.0)
    assert known.startswith("True")
    unknown = run((before + "; _objects.KNOWN = False", code, REFERENCES), tmp_path, timeout=300.0)
    assert unknown == known.replace("True", "False", 1)


def test_kernels_run_as_plain_python(tmp_path: Path) -> None:
    code = """
        import calls
        calls.check()
        calls.digests({name: calls.SMALL[name] for name in ("first", "rows", "spaced")})
    """
    run(code, tmp_path, {"NUMBA_DISABLE_JIT": "1", "NUMBABN_PARALLEL_THRESHOLD": "0"})
    assert not files(tmp_path)
