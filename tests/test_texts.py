"""What is documented, and what the project's files may hold."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import numbabn

PACKAGE = Path(numbabn.__file__).parent
ROOT = Path(__file__).parents[1]

# -- documentation -----------------------------------------------------------------------------------------------------


def sections(doc: str) -> dict[str, list[str]]:
    """Lines of a numpydoc docstring by heading."""
    found: dict[str, list[str]] = {"": []}
    lines = inspect.cleandoc(doc).splitlines()
    heading = ""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and re.fullmatch("-{3,}", below) and len(below) == len(line):
            heading = line
            found[heading] = []
        elif not re.fullmatch("-{3,}", line):
            found[heading].append(line)
    return found


def documented(lines: list[str]) -> list[str]:
    """Names that a Parameters or Attributes section describes."""
    heads = [line.partition(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in numbabn.__all__:
        value = getattr(numbabn, name)
        if inspect.isfunction(value):
            yield name, value
        owner = value if inspect.isclass(value) else type(value)
        if owner.__module__.startswith("numbabn"):
            for method, function in inspect.getmembers(owner, inspect.isfunction):
                if not method.startswith("_") and function.__module__.startswith("numbabn"):
                    yield f"{name}.{method}", function


PUBLIC = dict(public_functions())
CLASSES = [name for name in numbabn.__all__ if inspect.isclass(getattr(numbabn, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_functions_are_documented(name: str) -> None:
    function = PUBLIC[name]
    assert function.__doc__, "no docstring"
    doc = sections(function.__doc__)
    assert doc[""] and doc[""][0].endswith((".", "`")), "no summary line"
    assert documented(doc.get("Parameters", [])) == parameters(function)
    returned = str(inspect.signature(function).return_annotation)
    nothing = returned in ("None", "Iterator[None]")
    assert nothing != ("Returns" in doc), f"returns {returned}, and the docstring says otherwise"
    if "." not in name:
        assert {"Raises", "Examples"} <= doc.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_documented(name: str) -> None:
    kind = getattr(numbabn, name)
    doc = sections(kind.__doc__)
    assert doc[""] and doc[""][0].endswith(".")
    described = documented(doc.get("Parameters", [])) + documented(doc.get("Attributes", []))
    assert not set(parameters(kind)) - set(described)


def test_names_are_complete() -> None:
    assert PUBLIC.keys() >= {"batch_norm", "config.using", "Moments.merge", "BatchNorm2d.backward"}
    assert set(numbabn.__all__) <= set(dir(numbabn))
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        numbabn.batchnorm  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", numbabn.__version__)


def test_the_settings_are_documented() -> None:
    assert documented(sections(type(numbabn.config).__doc__ or "")["Attributes"])[:4] == [
        "threads",
        "parallel_threshold",
        "cache",
        "recycle_limit",
    ]


# -- files -------------------------------------------------------------------------------------------------------------


def project_files() -> list[Path]:
    """What belongs to the project: all that git knows or would add, or the package alone where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return sorted(PACKAGE.rglob("*.py"))
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode()


def lines_of_code(text: str) -> int:
    """Lines outside docstrings: documentation may be as long as it needs to be."""
    lines = text.count("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return lines


def test_files_are_short() -> None:
    long = {str(path): lines_of_code(text) for path, text in texts() if path.suffix == ".py"}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    folder = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|opt|tmp)/\w|\b[A-Z]:\\\w|\.\./shared")
    found = [f"{path}: {match.group()}" for path, text in texts() for match in folder.finditer(text)]
    assert not found
    assert folder.search("see /" + "home/me") and folder.search("../" + "shared")


def test_nothing_is_left_for_later() -> None:
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")))
    found = [f"{path}: {match.group()}" for path, text in texts() for match in words.finditer(text)]
    assert not found
