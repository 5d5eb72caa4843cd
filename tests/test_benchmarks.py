"""The benchmarks' two sides do the same work: a ratio of times of different results would say nothing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Modules `cases` and `plain`, small."""
    monkeypatch.setenv("NUMBABN_BENCH_SMALL", "1")
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    return import_module("benchmarks.cases"), import_module("benchmarks.plain")


@pytest.mark.parametrize("work", ["training", "eval", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_does_the_same(work: str, dtype: str, benchmarks: tuple[Any, Any]) -> None:
    cases, plain = benchmarks
    assert {case.split()[0] for case in cases.CASES} == {"NCHW", "NHWC", "NC"}
    for case in cases.CASES:
        results = []
        for side in (lambda batch: batch, plain.Plain):
            batch = cases.Batch(case, dtype)
            rng = np.random.default_rng(1)
            for name in ("weight", "bias", "mean", "var"):
                getattr(batch, name)[...] = rng.uniform(0.5, 1.5, batch.channels)
            getattr(side(batch), work)()
            results.append((batch.out, batch.mean, batch.var))
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            assert ours.dtype == theirs.dtype
