"""State of a layer as arrays with names: copied out, checked and copied in, kept in a file."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import adopt, is_device_array
from ._placement import copy_in, on_host

Array = npt.NDArray[Any]

VERSION = 2  # of the keys, PyTorch's: from 2 on there is num_batches_tracked
_CONFIG = "config"  # the member of a file that is no array of the state: JSON


class IncompatibleKeys(NamedTuple):
    """What did not match where a state was loaded with ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class StateDict(OrderedDict[str, Array]):
    """Copies of a layer's arrays by name, on the host; `_metadata` carries the version where PyTorch looks for it."""

    def __init__(self, arrays: Mapping[str, Array] | None = None) -> None:
        super().__init__((name, on_host(value)) for name, value in (arrays or {}).items())
        self._metadata = {"": {"version": VERSION}}


def load(owner: str, own: Mapping[str, Array], state: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copy a state into a layer's own arrays; nothing has changed when it raises.

    Raises
    ------
    RuntimeError
        With PyTorch's words: for a shape that differs and, if strict, for missing and unexpected names.
    TypeError
        If the state is no mapping, or a value is of another kind.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    version = (getattr(state, "_metadata", None) or {}).get("", {}).get("version")
    old = {"num_batches_tracked"} if version is None or version < VERSION else set()
    missing = [name for name in own if name not in state and name not in old]
    unexpected = [name for name in state if name not in own]
    values = {name: _on_host(name, state[name]) for name in own if name in state}
    problems = []
    if strict and missing:
        problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    problems += [
        f"size mismatch for {name}: copying a param with shape {value.shape} from checkpoint, "
        f"the shape in current model is {own[name].shape}."
        for name, value in values.items()
        if value.shape != own[name].shape
    ]
    if problems:
        raise RuntimeError(f"Error(s) in loading state_dict for {owner}:\n\t" + "\n\t".join(problems))
    for name, value in values.items():
        if not np.can_cast(value.dtype, own[name].dtype, "same_kind"):
            raise TypeError(f"{name} has dtype {value.dtype}, expected what can be cast to {own[name].dtype}")
    cast = {name: value.astype(own[name].dtype) for name, value in values.items()}
    for name, value in cast.items():
        copy_in(own[name], value)
    return IncompatibleKeys(missing, unexpected)


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    """Write an .npz file that is there whole or, if anything fails, as it was before."""
    path = Path(path)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with zipfile.ZipFile(file, "w") as members:  # what np.savez does, which may pickle before NumPy 2.2
                for name, array in {_CONFIG: np.array(json.dumps(config, default=_of_json)), **arrays}.items():
                    with members.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(member, on_host(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(scratch).chmod(0o666 & ~mask)  # mkstemp's own are for the owner alone
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and configuration from a file of `write`.

    Raises
    ------
    ValueError
        If the file is none.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        config = dict(json.loads(str(arrays.pop(_CONFIG))))
    except (KeyError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)} is no file that to_npz wrote: {error}") from error
    return arrays, config


def _on_host(name: str, value: Any) -> Array:
    """A state's array as an ndarray; those on a device are copied: loading a state may cross between both."""
    return on_host(value) if is_device_array(value) else adopt(name, value)


def _of_json(value: Any) -> Any:
    """What JSON has for a number of NumPy's, or of another kind."""
    return value.item() if isinstance(value, np.generic) else float(value)


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
