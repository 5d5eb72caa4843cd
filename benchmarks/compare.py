"""Time numbabn beside PyTorch on the CPU, in one run: training forward, eval, backward; NCHW, NHWC and (N, C).

    python benchmarks/compare.py [--layout nchw nhwc nc] [--rounds N]

Both sides work on the same float32 arrays and write to reused outputs; PyTorch is also timed as users call it, and its
better time counts. Contenders take turns in rounds: a pause that lets the other side's thread pool fall asleep, one
untimed call, then timed ones. The table gives lower quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import numbabn as nb

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "nchw": [
        (32, 64, 56, 56),
        (32, 256, 14, 14),
        (128, 64, 32, 32),
        (20, 120, 55, 65),
        (8, 64, 112, 112),
        (32, 512, 7, 7),
        (32, 64),
    ],
    "nc": [(4096, 1024), (256, 1024), (8192, 128), (100_000, 16), (512, 4096)],
}
SHAPES["nhwc"] = SHAPES["nchw"][:-1]
OPERATIONS = ("training", "eval", "backward")
BYTES = {"training": 8, "eval": 8, "backward": 12}  # per float32 element, each array moved once

Call = Callable[[], Any]


def ours(x: Any, dy: Any, out: Any) -> dict[str, list[Call]]:
    """numbabn's calls, outputs reused."""
    c = x.shape[1]
    weight, bias, mean, var = (np.full(c, value, np.float32) for value in (1, 0, 0, 1))
    _, save_mean, save_invstd = nb.batch_norm_forward(x, training=True)
    return {
        "training": [lambda: nb.batch_norm(x, mean, var, weight, bias, True, out=out)],
        "eval": [lambda: nb.batch_norm(x, mean, var, weight, bias, out=out)],
        "backward": [lambda: nb.batch_norm_backward(dy, x, weight, save_mean, save_invstd, out=out)],
    }


def torchs(x: Any, dy: Any, out: Any) -> dict[str, list[Call]]:
    """PyTorch's calls: preallocated, then as users write them."""
    import torch

    torch.set_grad_enabled(False)
    norm, gradient = torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward
    tx, tdy, tout = (torch.from_numpy(a) for a in (x, dy, out))
    c = x.shape[1]
    weight, bias, mean, var = torch.ones(c), torch.zeros(c), torch.zeros(c), torch.ones(c)
    save_mean, save_invstd, dw, db, none = (torch.empty(n) for n in (c, c, c, c, 0))
    rest = (tdy, tx, weight, mean, var, *norm(tx, weight, bias, mean, var, True, 0.1, 1e-5)[1:], True, 1e-5, [True] * 3)

    def forward(training: bool) -> list[Call]:
        saves = (save_mean, save_invstd) if training else (none, none)
        args = (tx, weight, bias, mean, var, training, 0.1, 1e-5)
        return [
            lambda: norm.out(*args, out=tout, save_mean=saves[0], save_invstd=saves[1]),
            lambda: torch.nn.functional.batch_norm(tx, mean, var, weight, bias, training),
        ]

    return {
        "training": forward(True),
        "eval": forward(False),
        "backward": [lambda: gradient.out(*rest, out0=tout, out1=dw, out2=db), lambda: gradient(*rest)],
    }


def measure(calls: list[Call], rounds: int) -> list[float]:
    """Lower quartile of each call's time, in seconds, the calls taking turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, mine in zip(calls, times, strict=True):
            time.sleep(0.02)
            call()
            budget = time.perf_counter() + 0.01
            while True:
                start = time.perf_counter()
                call()
                end = time.perf_counter()
                mine.append(end - start)
                if end > budget:
                    break
    return [statistics.quantiles(mine, n=4)[0] for mine in times]


def arrays(shape: tuple[int, ...], layout: str) -> list[Any]:
    """x, dy and out of this shape, in memory order NHWC where asked for."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    if layout == "nhwc":
        made = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in made]
    return made


def main() -> int:
    """Print a row for each shape and operation, and the geometric means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", nargs="+", choices=sorted(SHAPES), default=["nchw", "nhwc", "nc"])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("compare.py needs PyTorch: pip install torch", file=sys.stderr)
        return 1
    print(f"numbabn {nb.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for layout in options.layout:
        ratios: dict[str, list[float]] = {name: [] for name in OPERATIONS}
        for shape in SHAPES[layout]:
            given = arrays(shape, layout)
            mine, theirs = ours(*given), torchs(*given)
            for name in OPERATIONS:
                a, *b = measure(mine[name] + theirs[name], options.rounds)
                rate = BYTES[name] * given[0].size / a / 1e9
                if len(shape) > 2 or layout == "nc":
                    ratios[name].append(min(b) / a)
                print(
                    f"{layout:5}{shape!s:20}{name:10}{a * 1e6:9.0f} us {rate:5.1f} GB/s   torch "
                    f"{b[0] * 1e6:8.0f} /{b[1] * 1e6:8.0f} us   {min(b) / a:5.2f} x",
                    flush=True,
                )
        means = ", ".join(f"{name} {statistics.geometric_mean(ratios[name]):.2f} x" for name in OPERATIONS)
        print(f"{layout:5}geometric means: {means}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
