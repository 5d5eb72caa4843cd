"""The documentation: its examples run, it covers every public name, and it builds without a warning."""

from __future__ import annotations

import csv
import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import numbabn

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.rst"))

# What numpydoc asks for and this project leaves out, with the reason: everywhere, and for single names.
EXCLUDED = {
    "ES01": "an extended summary: one line is enough for most",
    "SA01": "See Also: the reference has related names side by side",
    "EX01": "an example for each method: functions and classes have them, see below",
    "PR08": "a capital: a description may begin with the name of a variable",
    "RT04": "a capital: a description may begin with the name of a variable",
    "SS02": "a capital: a summary may begin with the name of a variable",
    "SS05": "an infinitive: plurals (moments, gradients) are taken for verbs",
}
EXCEPTIONS = {
    "numbabn.BatchNormGrads": {"PR01": "fields are attributes"},
    "numbabn.Moments": {"PR01": "fields are attributes"},
    "numbabn._config.Config.using": {"YD01": "a context manager that gives nothing"},
    "numbabn.backward_reduce": {"RT02": "two values in one entry"},
    "numbabn.batch_norm_forward": {"PR04": "as in batch_norm", "PR07": "as in batch_norm"},
}


def public_names() -> Iterator[str]:
    """Dotted paths of every public function, class and method; a setting's class stands for `config`."""
    for name in numbabn.__all__:
        value = getattr(numbabn, name)
        if inspect.isfunction(value):
            yield f"numbabn.{name}"
            continue
        owner = value if inspect.isclass(value) else type(value)
        if not owner.__module__.startswith("numbabn"):
            continue
        path = f"numbabn.{name}" if inspect.isclass(value) else f"{owner.__module__}.{owner.__qualname__}"
        yield path
        for method, function in inspect.getmembers(owner, lambda v: inspect.isfunction(v) or inspect.ismethod(v)):
            if not method.startswith("_") and function.__module__.startswith("numbabn"):
                yield f"{path}.{method}"


NAMES = sorted(set(public_names()))
MODULES = ("functional", "layers", "_moments", "_config")
EXAMPLES = [
    test
    for module in MODULES
    for test in doctest.DocTestFinder().find(import_module(f"numbabn.{module}"))
    if test.examples
]


def run(test: doctest.DocTest) -> None:
    """Run a doctest; what failed is in the report."""
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_examples_of_docstrings(test: doctest.DocTest) -> None:
    run(test)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_pages(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    run(doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0))


@pytest.mark.parametrize("name", numbabn.__all__)
def test_every_name_has_an_example(name: str) -> None:
    value = getattr(numbabn, name)
    owner = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    if owner.__module__.startswith("numbabn"):
        assert any(f"{owner.__module__}.{owner.__qualname__}" == test.name for test in EXAMPLES)


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_the_reference_is_complete() -> None:
    words = (DOCS / "api.rst").read_text(encoding="utf-8").split()
    listed = {word.strip("`,.") for word in words}
    assert not [name for name in numbabn.__all__ if not {name, f"numbabn.{name}"} & listed]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_are_numpydoc(name: str) -> None:
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed: pip install '.[docs]'")
    errors: list[tuple[str, str]] = validate.validate(name)["errors"]
    excluded = EXCLUDED | EXCEPTIONS.get(name, {})
    assert not [error for error in errors if error[0] not in excluded]


def test_the_table_of_accuracy_keeps_the_bar() -> None:
    with (DOCS / "_generated" / "accuracy.csv").open(encoding="utf-8") as file:
        heads, *rows = csv.reader(file)
    ours = [k for k, head in enumerate(heads) if head.startswith("numbabn")]
    assert len(ours) == 3 and len(rows) == 5
    assert all(float(row[k]) <= 1e-6 for row in rows for k in ours)


# -- build -------------------------------------------------------------------------------------------------------------


def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in ("sphinx", "numpydoc", "pydata_sphinx_theme") if not find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[docs]'")
    options: list[Any] = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees", DOCS, tmp_path / "html"]
    command = [sys.executable, "-m", "sphinx", *map(str, options)]
    built = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "numbabn.batch_norm_backward" in (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
