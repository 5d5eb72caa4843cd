"""What a layer keeps beyond a call: its state, copies, files; lazy, frozen and general layers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Array, assert_bits, frozen, normal

import numbabn as nb

KEYS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def trained(**options: Any) -> nb.BatchNorm2d:
    layer = nb.BatchNorm2d(3, **options)
    layer.backward(layer(normal((4, 3, 5, 2), np.float32, 1)))
    for k, parameter in enumerate(layer.parameters().values()):
        parameter += k + 0.25
    return layer


def assert_same(a: Any, b: Any) -> None:
    """Same class, settings and arrays."""
    assert type(a) is type(b)
    for name, value in vars(a).items():
        if isinstance(value, np.ndarray):
            assert_bits(getattr(b, name), value, name)
            assert not np.shares_memory(getattr(b, name), value)
        elif name not in ("_saved", "grads"):
            assert getattr(b, name) == value, name


# -- state dicts -------------------------------------------------------------------------------------------------------


def test_state_dict_is_a_copy_with_the_keys_of_pytorch() -> None:
    layer = trained()
    state = layer.state_dict()
    assert list(state) == KEYS
    assert getattr(state, "_metadata", None) == {"": {"version": 2}}
    before = {name: value.copy() for name, value in state.items()}
    layer(normal((4, 3, 5, 2), np.float32, 2, 5.0))
    layer.parameters()["weight"] += 1.0
    for name, value in state.items():
        assert_bits(value, before[name], name)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"affine": False}, KEYS[2:]),
        ({"bias": False}, [KEYS[0], *KEYS[2:]]),
        ({"track_running_stats": False}, KEYS[:2]),
        ({"affine": False, "track_running_stats": False}, []),
    ],
)
def test_state_dict_has_what_there_is(options: dict[str, Any], keys: list[str]) -> None:
    layer = nb.BatchNorm1d(3, **options)
    assert list(layer.state_dict()) == keys
    assert list(layer.parameters()) == [k for k in keys if k in KEYS[:2]] == list(layer.grads)


def test_loading_keeps_arrays_and_dtypes() -> None:
    layer, source = nb.BatchNorm2d(3, dtype=np.float64), trained()
    arrays = {name: getattr(layer, name) for name in KEYS}
    assert layer.load_state_dict(source.state_dict()) == ([], [])
    for name, array in arrays.items():
        assert getattr(layer, name) is array
        assert_bits(array, getattr(source, name).astype(array.dtype), name)


def test_loading_takes_old_states_and_lists() -> None:
    layer = trained()
    old = {"weight": [1, 2, 3], "bias": [4, 5, 6], "running_mean": [0.5] * 3, "running_var": [2.0] * 3}
    assert layer.load_state_dict(old) == ([], [])
    assert layer.weight is not None and layer.weight.tolist() == [1, 2, 3]
    assert int(np.asarray(layer.num_batches_tracked)) == 1
    new = layer.state_dict()
    del new["num_batches_tracked"]  # these have a version, which says that it must be there
    with pytest.raises(RuntimeError, match=r'Missing key.*"num_batches_tracked"'):
        layer.load_state_dict(new)
    assert layer.load_state_dict(new, strict=False) == (["num_batches_tracked"], [])


@pytest.mark.parametrize("strict", [True, False])
def test_loading_all_or_nothing(strict: bool) -> None:
    layer = trained()
    before = layer.state_dict()
    state = {**before, "bias": np.zeros(4), "weight": np.full(3, 9.0), "other": np.zeros(1)}
    del state["running_mean"]
    with pytest.raises(RuntimeError, match="size mismatch for bias") as error:
        layer.load_state_dict(state, strict)
    assert ('Unexpected key(s) in state_dict: "other"' in str(error.value)) is strict
    assert ('Missing key(s) in state_dict: "running_mean"' in str(error.value)) is strict
    assert "BatchNorm2d" in str(error.value)
    for name, value in before.items():
        assert_bits(getattr(layer, name), value, name)


@pytest.mark.parametrize("state", [[1, 2], None, 3.0])
def test_loading_what_is_no_state(state: Any) -> None:
    with pytest.raises(TypeError, match="mapping"):
        trained().load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [("bias", np.full(3, 1j)), ("bias", np.ma.ones(3)), ("bias", ["a"] * 3), ("num_batches_tracked", 1.5)],
)
def test_loading_values_of_another_kind(name: str, value: Any) -> None:
    layer = trained()
    before = layer.state_dict()
    with pytest.raises(TypeError, match=name):
        layer.load_state_dict({**before, name: value})
    for name, value in before.items():
        assert_bits(getattr(layer, name), value, name)


def test_resets() -> None:
    layer, new = trained(), nb.BatchNorm2d(3).state_dict()
    arrays = {name: getattr(layer, name) for name in KEYS}
    layer.reset_running_stats()
    for name in KEYS[2:]:
        assert_bits(arrays[name], new[name], name)
    assert not np.array_equal(arrays["weight"], new["weight"])
    layer.reset_parameters()
    assert_bits(arrays["weight"], new["weight"])
    assert_bits(arrays["bias"], new["bias"])
    nb.BatchNorm1d(3, affine=False, track_running_stats=False).reset_parameters()


# -- copies and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_let_go_of_the_input(again: Any) -> None:
    layer = trained(momentum=None, eps=0.5, running_ddof=0).freeze()
    layer(normal((4, 3, 5, 2), np.float32, 1))
    other = again(layer)
    assert_same(layer, other)
    for name, grad in layer.grads.items():
        assert_bits(other.grads[name], grad, name)
    with pytest.raises(RuntimeError, match="needs a forward"):
        other.backward(np.ones((4, 3, 5, 2), np.float32))
    layer.backward(np.ones((4, 3, 5, 2), np.float32))
    for array in (*other.parameters().values(), *other.grads.values(), other.running_mean, other.running_var):
        assert array.dtype is np.dtype(np.float32), "not NumPy's own dtype, with which calls are faster"


@pytest.mark.parametrize(
    "layer",
    [
        trained(),
        trained(momentum=None, eps=0.5, running_ddof=0, dtype=np.float64).eval(),
        trained(affine=False),
        trained(bias=False).freeze(),
        nb.BatchNorm1d(4, track_running_stats=False),
        nb.BatchNorm((2, 3), axis=(0, -1)),
        nb.BatchNorm(3, axis=np.int64(1)),  # type: ignore[arg-type]
        nb.BatchNorm((2, 3), axis=(np.int64(0), -1), affine=np.bool_(False)),  # type: ignore[arg-type]
        nb.LazyBatchNorm3d(eps=1e-3),
    ],
    ids=repr,
)
def test_files(layer: Any, tmp_path: Path) -> None:
    path = tmp_path / "layer.of.mine"
    layer.to_npz(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    other = type(layer).from_npz(path)
    assert_same(layer, other)
    assert repr(other) == repr(layer)
    if type(layer) is nb.BatchNorm2d:
        x = frozen(normal((4, 3, 5, 2), np.float32, 7))
        assert_bits(other(x), layer(x))
        assert_bits(other.eval()(x), layer.eval()(x))


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "layer.npz"
    trained().to_npz(path)
    before = path.read_bytes()
    layer = trained()
    layer.weight = np.array([object()])  # np.savez refuses to pickle it, in the middle of the file
    with pytest.raises(ValueError, match="Object arrays"):
        layer.to_npz(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OSError, match="nowhere"):
        layer.to_npz(tmp_path / "nowhere" / "layer.npz")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "layer.npz"
    trained().to_npz(path)
    with pytest.raises(ValueError, match="holds a BatchNorm2d, expected a BatchNorm1d"):
        nb.BatchNorm1d.from_npz(path)
    whole = path.read_bytes()
    for broken in (b"", b"no file", whole[:100], whole[:-30]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"layer\.npz"):
            nb.BatchNorm2d.from_npz(path)
    config = '{"class": "BatchNorm2d", "num_features": 3, "_dtype": "float32"}'
    for members in ({"weight": np.ones(3)}, {"config": '{"class": "BatchNorm2d"}'}, {"config": config, "bias": "a"}):
        np.savez(path, **members)
        with pytest.raises(ValueError, match=r"layer\.npz"):
            nb.BatchNorm2d.from_npz(path)
    with pytest.raises(FileNotFoundError):
        nb.BatchNorm2d.from_npz(tmp_path / "nothing.npz")


# -- lazy layers -------------------------------------------------------------------------------------------------------


LAZY = [
    (nb.LazyBatchNorm1d, nb.BatchNorm1d, (9, 5)),
    (nb.LazyBatchNorm1d, nb.BatchNorm1d, (4, 5, 7)),
    (nb.LazyBatchNorm2d, nb.BatchNorm2d, (4, 5, 3, 7)),
    (nb.LazyBatchNorm3d, nb.BatchNorm3d, (2, 5, 3, 2, 7)),
]


@pytest.mark.parametrize(("kind", "becomes", "shape"), LAZY)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}], ids=str)
def test_lazy_layers(kind: Any, becomes: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    settings = {"eps": 0.5, "momentum": None, "dtype": np.float64, "running_ddof": 0, **options}
    lazy, plain = kind(**settings), becomes(5, **settings)
    x = frozen(normal(shape, np.float32, 3))
    assert_bits(lazy(x), plain(x))
    assert_same(lazy, plain)
    assert_bits(lazy.backward(x), plain.backward(x))


def test_a_lazy_layer_stays_lazy_when_its_first_call_raises() -> None:
    layer: Any = nb.LazyBatchNorm1d()
    for x in (np.ones((1, 5), np.float32), np.ones((2, 5, 2, 2), np.float32), np.ones((3, 5), int), np.float32(1)):
        with pytest.raises((TypeError, ValueError)):
            layer(x)
    assert type(layer).__name__ == "LazyBatchNorm1d" and layer.num_features == 0
    layer(np.ones((2, 3), np.float32))
    assert type(layer).__name__ == "BatchNorm1d"
    with pytest.raises(ValueError, match="expected 3 channels"):
        layer(np.ones((2, 5), np.float32))


def test_a_lazy_layer_learns_its_channels_from_a_state() -> None:
    layer, source = nb.LazyBatchNorm2d(), trained()
    with pytest.raises(RuntimeError, match="Missing"):
        layer.load_state_dict({"weight": np.ones(3)})
    assert type(layer).__name__ == "LazyBatchNorm2d"
    nothing = layer.load_state_dict(nb.LazyBatchNorm2d().state_dict())
    assert type(layer).__name__ == "LazyBatchNorm2d" and nothing == ([], [])
    layer.load_state_dict(source.state_dict())
    assert_same(layer, source)


# -- frozen layers -----------------------------------------------------------------------------------------------------


def test_frozen_layers_use_running_statistics_and_leave_them() -> None:
    layer, x, dy = trained(), normal((4, 3, 5, 2), np.float32, 8), normal((4, 3, 5, 2), np.float32, 9)
    layer.zero_grad()
    layer.freeze()
    before = layer.state_dict()
    assert layer.train().training
    y = layer(x)
    assert_bits(y, nb.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias))
    dx = layer.backward(dy)
    mean, scale = (np.asarray(v, np.float64) for v in (layer.running_mean, layer.running_var))
    scale = 1.0 / np.sqrt(scale + layer.eps)
    expected = nb.batch_norm_backward(dy, x, layer.weight, mean, scale, training=False)
    assert expected.x is not None and expected.weight is not None and expected.bias is not None
    np.testing.assert_allclose(dx, expected.x, rtol=1e-6)
    np.testing.assert_allclose(layer.grads["weight"], expected.weight, rtol=1e-5)
    np.testing.assert_allclose(layer.grads["bias"], expected.bias, rtol=1e-5)
    for name, value in before.items():
        assert_bits(getattr(layer, name), value, name)
    layer.unfreeze()(x)
    assert not np.array_equal(layer.state_dict()["running_mean"], before["running_mean"])


def test_freezing_needs_statistics_to_freeze() -> None:
    layer = nb.BatchNorm1d(3, track_running_stats=False).freeze()
    x = normal((9, 3), np.float32, 1)
    assert_bits(layer(x), nb.batch_norm(x, weight=layer.weight, bias=layer.bias, training=True))
    assert_bits(layer.backward(x), nb.BatchNorm1d(3).forward(x) * 0 + _training_gradient(x))


def _training_gradient(x: Array) -> Array:
    layer = nb.BatchNorm1d(3)
    layer(x)
    return layer.backward(x)


# -- layers over any axes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "shape", "features"),
    [
        (1, (9, 5), 5),
        (-1, (4, 6, 5), 5),
        (0, (5, 4, 3), 5),
        ((1,), (4, 5, 3), (5,)),
        ((1, 3), (4, 5, 3, 2), (5, 2)),
        ((-1, 1), (4, 5, 3, 2), (5, 2)),
        ((0, 2), (3, 4, 2), (3, 2)),
    ],
)
def test_any_axis(axis: Any, shape: tuple[int, ...], features: Any) -> None:
    layer = nb.BatchNorm(features, axis=axis)
    x, dy = normal(shape, np.float32, 1, 3.0), normal(shape, np.float32, 2)
    expected, mean, scale = nb.batch_norm_forward(x, training=True, axis=axis)
    assert_bits(layer(x), expected)
    assert_bits(layer.backward(dy), nb.batch_norm_backward(dy, x, None, mean, scale, axis=axis).x)
    kept = features if isinstance(features, tuple) else (features,)
    for name in KEYS[:4]:
        assert getattr(layer, name).shape == kept
    assert layer.eval()(x).shape == shape


@pytest.mark.parametrize(
    ("features", "axis"), [(3, (1, 2)), ((3, 4), 1), ((3,), (1, 2)), (-1, 1), (2.5, 1), ((2, "a"), (0, 1))]
)
def test_features_that_do_not_fit_the_axes(features: Any, axis: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="num_features"):
        nb.BatchNorm(features, axis=axis)
    if axis == 1:
        with pytest.raises((TypeError, ValueError), match="num_features"):
            nb.BatchNorm2d(features)


def test_inputs_that_do_not_fit_the_axes() -> None:
    with pytest.raises(TypeError, match="axis must be an int or a tuple of ints"):
        nb.BatchNorm(3, axis=1.0)  # type: ignore[arg-type]
    layer = nb.BatchNorm((3, 4), axis=(-1, 1))
    with pytest.raises(ValueError, match=r"expected \(3, 4\) channels on axes \(1, 2\), in this order, got \(3, 5\)"):
        layer(np.ones((2, 3, 5), np.float32))
    with pytest.raises(np.exceptions.AxisError):
        nb.BatchNorm((3, 4), axis=(1, 2))(np.ones((2, 3), np.float32))
