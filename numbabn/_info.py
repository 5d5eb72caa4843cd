"""The info: what is installed, what it runs on, and what the kernel cache holds."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import __version__
from ._arrays import SUPPORTED
from ._config import config
from ._forks import load


def main() -> int:
    """Print a line for each fact."""
    compiler = load("_compile")
    facts = {
        "numbabn": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        **compiler.versions(),
        "CPU": compiler.processor(),
        "threads": threads(),
        "settings": repr(config),
        **cache(),
        "CUDA": cuda(),
    }
    for name, fact in facts.items():
        print(f"{name:16}{fact}")
    return 0


def threads() -> str:
    """Threads of a large call, and the layer that starts them."""
    compiler = load("_compile")
    try:
        return f"{compiler.threads_for(sys.maxsize)}, layer {compiler.layer()}"
    except ValueError as error:  # the layer that was asked for is not installed
        return f"none: {_first_line(error)}"


def cache() -> dict[str, str]:
    """Where kernels are kept, and what is there from these sources and this Python, and from others."""
    load("_cpu")  # defines the kernels
    compiler = load("_compile")
    try:
        place: Path = compiler.kernels[0].place()
    except RuntimeError as error:
        return {"cache": f"none: {error}"}
    python = f".py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}."
    files = set(place.glob("*.nb[ic]"))
    mine = {path for path in files if f"_{compiler.salt}-" in path.name and python in path.name}
    total = sum(len(list(kernel.twins(SUPPORTED))) for kernel in compiler.kernels)
    return {
        "cache": f"{place} (writable)",  # or Numba would not have chosen it
        "  this version": f"{_kernels(mine)} of {total} kernels, {_size(mine)}",
        "  others": f"{_kernels(files - mine)} kernels, {_size(files - mine)}",
    }


def cuda() -> str:
    """The CUDA devices, or why there are none."""
    if find_spec("numba_cuda") is None:
        return "no: numba-cuda is not installed"
    try:
        cuda = load("_compile_cuda").cuda
        if cuda.is_available():
            return ", ".join(getattr(device, "name", "simulator") for device in cuda.list_devices())
        return f"no: {_first_line(cuda.cuda_error() or 'libNVVM is not found')}"
    except Exception as error:  # whatever a broken installation raises
        return f"no: {_first_line(error)}"


def _kernels(files: set[Path]) -> int:
    """Kernels of which there is code; one index may lead to several files of code."""
    return len({path.name.rsplit(".", 2)[0] for path in files if path.suffix == ".nbc"})


def _size(files: set[Path]) -> str:
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def _first_line(text: object) -> str:
    return (str(text).strip() or repr(text)).splitlines()[0]
