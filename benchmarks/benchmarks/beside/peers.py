"""Which peers there are, which of them are installed, and how each is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from .batch import Batch, Calls


@dataclass(frozen=True)
class Peer:
    """A library that does some of the same work."""

    module: str  # of this package
    packages: tuple[str, ...]
    layouts: tuple[str, ...]

    def missing(self) -> list[str]:
        return [name for name in self.packages if not find_spec(name)]

    def version(self) -> str:
        return version(self.packages[0])

    def calls(self, batch: Batch) -> Calls:
        """Its calls for a batch; none if it has no way to take the layout."""
        if batch.case.layout not in self.layouts:
            return {}
        made: Calls = import_module(f".{self.module}", __package__).calls(batch)
        return made


FIRST = ("nchw", "nc", "small")
ALL = (*FIRST, "nhwc")
PEERS = {
    "torch": Peer("with_torch", ("torch",), ALL),
    "jax": Peer("with_jax", ("jax",), ALL),
    "onnxruntime": Peer("with_onnxruntime", ("onnxruntime", "onnx"), FIRST),
    "openvino": Peer("with_openvino", ("openvino",), FIRST),
    "numpy": Peer("plain", ("numpy",), ALL),
}


def installed() -> list[str]:
    """Names of the peers that can be measured here."""
    return [name for name, peer in PEERS.items() if not peer.missing()]


def chosen(names: str) -> list[str]:
    """Peers from a list with commas; ValueError says which are unknown, and how to install those that are missing."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown or not wanted:
        raise ValueError(f"unknown peer {', '.join(unknown) or repr(names)}: choose from {', '.join(PEERS)}")
    missing = [package for name in wanted for package in PEERS[name].missing()]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}")
    return wanted
