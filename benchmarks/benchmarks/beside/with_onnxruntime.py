"""ONNX Runtime's calls on the CPU: a graph of one BatchNormalization, bound to preallocated arrays."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from .batch import EPS, MOMENTUM, Batch, Call, Calls

OPSET, IR = 15, 9


def calls(b: Batch) -> Calls:
    """Both forwards; there is no backward."""
    return {"training": {"bound": _bound(b, True)}, "eval": {"bound": _bound(b, False)}}


def _bound(b: Batch, training: bool) -> Call:
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin after a call would take the processors from the contender whose turn is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(_model(b, training), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", b.x)
    running = {"running_mean": b.running_mean, "running_var": b.running_var} if training else {}
    for name, array in {"y": b.out, **running}.items():
        binding.bind_output(name, "cpu", 0, b.dtype, array.shape, array.ctypes.data)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return b.out

    return call


def _model(b: Batch, training: bool) -> bytes:
    onnx: Any = import_module("onnx")
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(b.dtype))
    outputs = {"y": b.x.shape, **dict.fromkeys(("running_mean", "running_var") if training else (), (b.channels,))}
    constants = {"weight": b.weight, "bias": b.bias, "mean": b.mean, "var": b.var}
    node = helper.make_node(
        "BatchNormalization",
        ["x", *constants],
        list(outputs),
        epsilon=EPS,
        momentum=1 - MOMENTUM,  # ONNX gives the weight of the old value
        training_mode=int(training),
    )
    graph = helper.make_graph(
        [node],
        "batch_norm",
        [helper.make_tensor_value_info("x", kind, b.x.shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString()
    return model
