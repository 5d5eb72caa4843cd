"""The shape of the package, read from its sources: who imports what, and what kernels may contain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import numbabn

PACKAGE = Path(numbabn.__file__).parent

# What may import what: downwards, or a neighbour on the same storey. The package itself is above all: it loads lazily.
STOREYS = {
    "numbabn": 5,
    "numbabn.__main__": 4,
    "numbabn._demo": 4,
    "numbabn._info": 4,
    "numbabn._warmup": 4,
    "numbabn.layers": 4,
    "numbabn.functional": 3,
    "numbabn._moments": 3,
    "numbabn._layer": 4,
    "numbabn._lazy_layer": 4,
    "numbabn._state": 3,
    "numbabn._steps": 3,
    "numbabn._device_steps": 3,
    "numbabn._placement": 3,
    "numbabn._arrays": 2,
    "numbabn._device": 2,
    "numbabn._layout": 2,
    "numbabn._recycle": 2,
    "numbabn._cpu": 1,  # and all in it
    "numbabn._cuda": 1,
    "numbabn._caches": 0,
    "numbabn._compile": 0,
    "numbabn._compile_cuda": 0,
    "numbabn._config": 0,
    "numbabn._forks": 0,
    "numbabn._objects": 0,
    "numbabn._geometry": 0,
    "numbabn._scalar": 0,
}
BACKENDS = 1
# Who knows the compiler.
COMPILER = {"numba", "llvmlite"}
KNOW_THE_COMPILER = {
    "numbabn._compile",
    "numbabn._compile_cuda",
    "numbabn._cpu.intrinsics",
    "numbabn._cuda.intrinsics",
}
INSTALLED_WITH_US = {"numpy", *COMPILER}


def module_name(path: Path) -> str:
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
NOT_COMPILED = {*KNOW_THE_COMPILER, "numbabn._cpu.vectors"}  # the latter are bodies for plain Python
KERNEL_FILES = [name for name in TREES if name.startswith("numbabn._cpu.") and name not in NOT_COMPILED]
CUDA_FILES = [name for name in TREES if name.startswith("numbabn._cuda.") and name not in KNOW_THE_COMPILER]


def storey(module: str) -> int:
    while module not in STOREYS:
        module, _, last = module.rpartition(".")
        assert module != "numbabn" or last == "", f"{last} has no storey yet: give it one in the table"
    return STOREYS[module]


def runs_later(node: ast.AST) -> bool:
    only_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return only_for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def nodes(tree: ast.AST, at_load: bool = False) -> Iterator[ast.AST]:
    """All nodes below one; with `at_load`, not those that run later, if at all."""
    for child in ast.iter_child_nodes(tree):
        if not (at_load and runs_later(child)):
            yield child
            yield from nodes(child, at_load)


def imports(module: str, at_load: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a module imports; of ours, the most exact that exist."""
    parts = module.split(".")
    is_package = int(PACKAGE.parent.joinpath(*parts, "__init__.py").exists())
    for node in nodes(TREES[module], at_load):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in TREES else base


def ours(module: str, at_load: bool = False) -> set[str]:
    """Modules of the package that a module imports; the package's own file, loaded before all others, left out."""
    return {name for name in imports(module, at_load) if name.startswith("numbabn.")} - {module}


# -- storeys -----------------------------------------------------------------------------------------------------------


def test_the_reader_of_imports_sees_them() -> None:
    assert {"numbabn._compile", "numbabn._geometry"} <= ours("numbabn._cpu", at_load=True)
    assert {"numbabn._moments", "numbabn._steps", "numbabn._layout"} <= ours("numbabn.functional", at_load=True)
    assert "numbabn._config" in ours("numbabn") - ours("numbabn", at_load=True)


@pytest.mark.parametrize("module", TREES)
def test_imports_go_down(module: str) -> None:
    upwards = {name for name in ours(module) if storey(name) > storey(module)}
    assert not upwards, f"storey {storey(module)} imports from above"


def test_no_cycles_at_load_time() -> None:
    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in ours(module, at_load=True):
                visit(name, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in TREES:
        visit(module, ())


@pytest.mark.parametrize("module", TREES)
def test_only_the_doors_import_the_compiler(module: str) -> None:
    used = {name.split(".")[0] for name in imports(module)} & COMPILER
    assert not used or module in KNOW_THE_COMPILER


@pytest.mark.parametrize("module", [name for name in TREES if storey(name) > BACKENDS])
def test_backends_and_the_compiler_are_loaded_late(module: str) -> None:
    early = {name for name in ours(module, at_load=True) if storey(name) == BACKENDS or name in KNOW_THE_COMPILER}
    assert not early


@pytest.mark.parametrize("module", TREES)
def test_what_is_imported_at_load_time_is_installed(module: str) -> None:
    import sys

    foreign = {name.split(".")[0] for name in imports(module, at_load=True)} - {"numbabn", ""}
    assert not foreign - sys.stdlib_module_names - INSTALLED_WITH_US


def test_backends_do_not_know_each_other() -> None:
    backends = {name for name in STOREYS if STOREYS[name] == BACKENDS}
    for module in TREES:
        own = {b for b in backends if module.startswith(b)}
        if own:
            others = tuple(backends - own)
            assert not [name for name in ours(module) if name.startswith(others)], module


def contract(backend: str) -> dict[str, list[str]]:
    """Public functions of a backend, and the names of their parameters."""
    found = (f for f in functions(TREES[backend]) if not f.name.startswith("_"))
    return {f.name: [a.arg for a in f.args.args] for f in found}


def test_backends_are_twins() -> None:
    assert contract("numbabn._cpu") == contract("numbabn._cuda")
    assert len(contract("numbabn._cpu")) >= 8


def test_cuda_has_one_import_point() -> None:
    doors = {"numbabn._compile_cuda", "numbabn._cuda.intrinsics"}
    used = {module for module in TREES for name in imports(module) if name.startswith(("numba.cuda", "cuda."))}
    whole = {module for module, tree in TREES.items() if "cuda" in imported_from_numba(tree)}
    assert used <= doors and whole == {"numbabn._compile_cuda"}


def imported_from_numba(tree: ast.AST) -> set[str]:
    found = (node for node in nodes(tree) if isinstance(node, ast.ImportFrom) and node.module == "numba")
    return {alias.name for node in found for alias in node.names}


def test_no_module_is_named_after_nothing() -> None:
    names = {part.strip("_") for name in TREES for part in name.split(".")}
    assert not names & {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}


# -- kernels -----------------------------------------------------------------------------------------------------------


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in nodes(tree) if isinstance(node, ast.FunctionDef))


def decorators(function: ast.FunctionDef) -> set[str]:
    return {ast.unparse(d).split("(")[0].rpartition(".")[2] for d in function.decorator_list}


def prange_loops(tree: ast.AST) -> Iterator[ast.For]:
    for node in nodes(tree):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "prange":
            yield node


def test_there_are_kernels() -> None:
    compiled = [f for name in KERNEL_FILES for f in functions(TREES[name]) if "kernel" in decorators(f)]
    assert len(compiled) >= 12
    assert sum(len(list(prange_loops(TREES[name]))) for name in KERNEL_FILES) >= 12
    for f in compiled:
        assert ast.get_docstring(f), f"{f.name} says nothing of what it moves"
        layout = f.name.endswith(("_channels_first", "_channels_last")) or not list(prange_loops(f))
        assert layout, f"{f.name} is not named verb_layout"


def test_cuda_kernels_say_what_they_move() -> None:
    kernels = [f for name in CUDA_FILES for f in functions(TREES[name]) if "kernel" in decorators(f)]
    assert len(kernels) >= 14
    assert all(ast.get_docstring(f) for f in kernels)


@pytest.mark.parametrize("module", [*KERNEL_FILES, *CUDA_FILES])
def test_compiled_functions_stand_at_module_level(module: str) -> None:
    compiled = [f for f in functions(TREES[module]) if decorators(f) & {"kernel", "inner"}]
    assert not set(compiled) - set(ast.iter_child_nodes(TREES[module])), "a closure is compiled again each time"
    for f in functions(TREES[module]):
        assert not list(functions(f)), f"{f.name} makes functions"


@pytest.mark.parametrize("module", [*KERNEL_FILES, *CUDA_FILES])
def test_kernels_raise_nothing(module: str) -> None:
    raised = [node.lineno for node in nodes(TREES[module]) if isinstance(node, ast.Raise | ast.Assert | ast.Try)]
    assert not raised


@pytest.mark.parametrize("module", KERNEL_FILES)
def test_parallel_loops_have_signed_indices_and_no_reductions(module: str) -> None:
    for loop in prange_loops(TREES[module]):
        assert isinstance(loop.target, ast.Name)
        index = loop.target.id
        uses = [n for n in nodes(loop) if isinstance(n, ast.Name) and n.id == index and isinstance(n.ctx, ast.Load)]
        signed = [n for n in nodes(loop) if isinstance(n, ast.Call) and ast.unparse(n) == f"np.int64({index})"]
        assert len(uses) == len(signed), f"line {loop.lineno}: an unsigned index makes floats of signed ones"
        summed = {n.target.id for n in nodes(loop) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
        outside = summed - set(begun_in(loop))
        assert not outside, f"line {loop.lineno}: {outside} would change with the number of threads"


def begun_in(loop: ast.For) -> Iterator[str]:
    """Names that a loop's body gives a first value."""
    for statement in nodes(loop):
        if isinstance(statement, ast.Assign | ast.For):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            yield from (n.id for n in names if isinstance(n.ctx, ast.Store))


@pytest.mark.parametrize("module", TREES)
def test_no_licence_to_change_results(module: str) -> None:
    found = list(nodes(TREES[module]))
    words = {n.id for n in found if isinstance(n, ast.Name)} | {n.attr for n in found if isinstance(n, ast.Attribute)}
    words |= {n.arg for n in found if isinstance(n, ast.keyword) and n.arg}
    words |= {n.value for n in found if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & {"guvectorize", "vectorize", "fastmath", "set_threading_layer"}


@pytest.mark.parametrize("module", TREES)
def test_modules_say_what_they_are_for(module: str) -> None:
    assert ast.get_docstring(TREES[module])
