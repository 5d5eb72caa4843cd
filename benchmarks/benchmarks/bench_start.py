"""What a new process waits for. Each measurement is an interpreter of its own; only the first snippet is timed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .cases import few

Snippets = tuple[str, str]  # timed, then what goes before it

CALLS = {
    "training": "nb.batch_norm(x, training=True)",
    "eval": "nb.batch_norm(x, mean, invstd)",
    "backward": "nb.batch_norm_backward(x, x, None, mean, invstd)",
    "moments": "nb.moments(x)",
}
DATA = "x, mean, invstd = np.ones((8, 4), np.float32), np.zeros(4), np.ones(4)"
FIRST_RESULT = "import numbabn as nb; nb.batch_norm([[0.0], [1.0]], training=True)"


class Import:
    """Over NumPy; and Numba's import, which the first call waits for, to compare with."""

    def timeraw_numbabn(self) -> Snippets:
        return "import numbabn", "import numpy"

    def timeraw_numba(self) -> Snippets:
        return "import numba", "import numpy"


class FirstResult:
    """From the import to a first training forward, its kernel cached by an earlier process or not."""

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        subprocess.run(
            [sys.executable, "-c", FIRST_RESULT], env=os.environ | {"NUMBA_CACHE_DIR": self.folder.name}, check=True
        )

    def teardown(self) -> None:
        self.folder.cleanup()

    def timeraw_warm_cache(self) -> Snippets:
        return FIRST_RESULT, f"import os, numpy; os.environ['NUMBA_CACHE_DIR'] = {self.folder.name!r}"

    def timeraw_cold_cache(self) -> Snippets:
        empty = "folder = tempfile.TemporaryDirectory(); os.environ['NUMBA_CACHE_DIR'] = folder.name"
        return FIRST_RESULT, f"import os, tempfile, numpy; {empty}"


class Compile:
    """A call that compiles its kernels, without a cache, in a process that has Numba ready."""

    params = (few(list(CALLS)), ["serial", "parallel"])
    param_names = ("call", "twin")

    def timeraw_call(self, call: str, twin: str) -> Snippets:
        threshold = 0 if twin == "parallel" else 1_000_000
        ready = "import numba, numpy as np, numbabn as nb; numba.njit(lambda: 0)(); nb.config.cache = False"
        return CALLS[call], f"{ready}; nb.config.parallel_threshold = {threshold}; {DATA}"
