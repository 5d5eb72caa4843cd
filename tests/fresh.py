"""Python snippets in interpreters of their own: chosen environment, cache folder and package, and a hard time limit.

Snippets may import the modules of this folder. It holds nothing that imports Numba, so a snippet decides when that is.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

Code: TypeAlias = str | tuple[str, ...]  # parts are put one below the other

TESTS = Path(__file__).parent
# A forked child of a process with threads is what some tests are about; every other warning is an error.
WARNINGS = "error,ignore:This process:DeprecationWarning"
SETTINGS = ("NUMBA_", "NUMBABN_", "OMP_", "GOMP_", "KMP_", "MKL_", "PYTHON", "XDG_CACHE")
CAN_FORK = hasattr(os, "fork")


def package_root() -> Path:
    """The folder that the tested package is imported from."""
    spec = importlib.util.find_spec("numbabn")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


class Fresh:
    """A snippet that is running; it and its children are gone after the with block."""

    def __init__(
        self,
        code: Code,
        cache: Path | None,
        environment: Mapping[str, str] | None = None,
        *,
        site: Path | None = None,
        arrange: Callable[[], None] | None = None,
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
        paths = (site or package_root(), TESTS, *filter(None, [os.environ.get("PYTHONPATH")]))
        own = {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONWARNINGS": WARNINGS,
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if cache is not None:
            own["NUMBA_CACHE_DIR"] = str(cache)
        self._folder = tempfile.TemporaryDirectory()
        # Files, not pipes: a child that is left behind could keep a pipe open for ever.
        self._out, self._err = Path(self._folder.name, "out"), Path(self._folder.name, "err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "\n".join(map(textwrap.dedent, (code,) if isinstance(code, str) else code))],
                env={**inherited, **own, **(environment or {})},
                cwd=self._folder.name,  # the first place that modules are searched in
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=arrange,
            )

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    def result(self, timeout: float = 120.0, silent: bool = False) -> str:
        """Standard output; AssertionError, with what was written to stderr, for a failure, a signal or a hang."""
        try:
            status = str(self._process.wait(timeout))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGABRT)  # faulthandler then says where it hangs
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            status = f"still running after {timeout} s"
        out, err = (path.read_text(errors="replace") for path in (self._out, self._err))
        assert status == "0", f"exit status: {status}\n{out[-2000:]}\n{err[-6000:]}"
        assert not (silent and err), f"written to stderr: {err[-6000:]}"
        return out

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def run(
    code: Code,
    cache: Path | None,
    environment: Mapping[str, str] | None = None,
    *,
    site: Path | None = None,
    arrange: Callable[[], None] | None = None,
    timeout: float = 120.0,
    silent: bool = False,
) -> str:
    """Standard output of a snippet; a failure, a signal, a hang and, if `silent`, a word on stderr fail the test."""
    with Fresh(code, cache, environment, site=site, arrange=arrange) as process:
        return process.result(timeout, silent)


def together(
    codes: Iterable[Code], cache: Path, environment: Mapping[str, str] | None = None, timeout: float = 300.0
) -> list[str]:
    """Standard output of snippets that run side by side."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Fresh(code, cache, environment)) for code in codes]
        return [process.result(timeout) for process in processes]


def forked(function: Callable[[], object], timeout: int = 30) -> None:
    """Call a function in a forked child; AssertionError unless it returns there in time."""
    faulthandler.cancel_dump_traceback_later()  # a child within a child would wait for the thread behind it
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.dump_traceback_later(timeout, exit=True)  # from a thread that needs no GIL
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"child ended with exit code {code}"


def obey_permissions() -> None:
    """Make the superuser subject to permission bits, from the coming exec on; others are already."""
    if os.geteuid() == 0:
        libc, drop_from_bounding_set = ctypes.CDLL(None, use_errno=True), 24
        for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
            if libc.prctl(drop_from_bounding_set, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")
