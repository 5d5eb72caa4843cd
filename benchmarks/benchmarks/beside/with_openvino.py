"""OpenVINO's call on the CPU: a compiled graph of one BatchNormInference, between preallocated tensors."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from .batch import EPS, Batch, Calls


def calls(b: Batch) -> Calls:
    """Eval alone; float64 is left out, for the plugin computes it in float32."""
    if b.dtype != "float32":
        return {}
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    # Reports its use over the network, from a forked child, while others are measured; OpenVINO works without it.
    modules.setdefault("openvino_telemetry", None)
    openvino: Any = import_module("openvino")
    operations: Any = import_module("openvino.opset13")
    x = operations.parameter(b.x.shape, b.dtype)
    y = operations.batch_norm_inference(x, b.weight, b.bias, b.mean, b.var, EPS)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Model([y], [x]), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(b.x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(b.out, shared_memory=True))

    def call() -> Any:
        request.infer()
        return b.out

    return {"eval": {"compiled": call}}
