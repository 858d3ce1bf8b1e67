"""Rules of docs/architecture.md, checked on the imports of the code; each rule is one test."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "mindloc"

# from the bottom up: a package imports itself and packages of lower layers, never one of its own layer
LAYERS = (
    ("errors",),
    ("vocabulary", "reading"),
    ("registry",),
    ("config", "geo"),
    ("runtime", "world"),
    ("data", "models", "descriptors", "doctor"),
    ("losses", "search"),
    ("inference",),
    ("evaluation", "export"),
    ("training", "launch"),
    ("api",),
    ("cli",),
    ("modelarts",),
)
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
ONLY = {"world": {"geo", "errors"}}  # stricter than its layer
# file -> higher package that it imports inside a function, to explain why a device can't be used
UPWARD = {("runtime/device.py", "doctor")}

WITHOUT_MINDSPORE = {
    "errors",
    "vocabulary",
    "reading",
    "registry",
    "config",
    "geo",
    "world",
    "data",
    "descriptors",
    "search",
}
WITHOUT_MINDSPORE |= {"descriptors", "search", "evaluation", "launch", "modelarts", "doctor"}
IMPORTS_MINDSPORE = {"doctor/packages.py"}  # to check whether MindSpore can be imported and used

# these choose parts by a whole Config; what they call gets a section of it or plain values
BUILDERS = {"build.py", "criterion.py", "trainer.py", "evaluate.py", "dataset.py", "api.py", "state_dict.py"}

VIEW_WORDS = re.compile(r"drone|satellite", re.IGNORECASE)
# readers of data sets with these views; the generated drone data; flags of the command line
NAMES_VIEWS = (
    "data/gta_uav.py",
    "data/visloc.py",
    "data/pairs_file.py",
    "data/vigor",
    "world/",
    "cli/data.py",
    "cli/options.py",
)
MOST_VIEW_LINES = 40

MOST_LINES = 400
VAGUE_NAMES = {"utils", "util", "common", "misc", "helpers", "base", "factory", "manager"}

TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what the file imports, wherever in the file: ``a.b`` and ``a.b.c`` for ``from a.b import c``."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def packages_imported(path: Path) -> set[str]:
    """Packages of ours that the file imports."""
    parts = [name.split(".") for name in imported(path)]
    return {part[1] for part in parts if part[0] == "mindloc" and len(part) > 1} & LAYER_OF.keys()


def test_every_package_is_on_the_plan():
    assert {package_of(path) for path in TREES} - {"__init__", "__main__"} == set(LAYER_OF)


def test_imports_point_down():
    wrong = []
    for path in TREES:
        package = package_of(path)
        if package in ("__init__", "__main__"):
            continue
        for other in packages_imported(path) - {package}:
            up = LAYER_OF[other] >= LAYER_OF[package] and (name_of(path), other) not in UPWARD
            if up or other not in ONLY.get(package, {other}):
                wrong.append(f"{name_of(path)} imports {other}")
    assert wrong == []


def test_an_upward_import_is_inside_a_function():
    """This saves start-up time and avoids import cycles."""
    at_import = [
        f"{file} imports {node.module}"
        for file, other in UPWARD
        for node in TREES[PACKAGE / file].body
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"mindloc.{other}.")
    ]
    assert at_import == []


def test_imports_are_absolute():
    assert [name_of(path) for path in TREES if any(name.startswith(".") for name in imported(path))] == []


def test_modules_have_no_import_cycle():
    modules = {".".join(("mindloc", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in TREES}
    needs = {
        module: {
            other
            for other in set(imported(path)) & modules.keys()
            if (name_of(path), package_of(modules[other])) not in UPWARD
        }
        for module, path in modules.items()
    }
    while free := [module for module, others in needs.items() if not others & needs.keys()]:
        for module in free:
            del needs[module]
    assert not needs, f"an import cycle among {', '.join(sorted(needs))}"


def test_these_packages_never_import_mindspore():
    wrong = [
        name_of(path)
        for path in TREES
        if package_of(path) in WITHOUT_MINDSPORE and any(name.split(".")[0] == "mindspore" for name in imported(path))
    ]
    assert set(wrong) <= IMPORTS_MINDSPORE


def test_these_packages_do_not_import_mindspore_indirectly():
    modules = [
        ".".join(("mindloc", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in TREES
        if package_of(path) in WITHOUT_MINDSPORE
    ]
    code = f"import sys, {', '.join(modules)}; print('mindspore' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_config_stops_at_the_builders():
    """Modules below the builders use only the classes of sections."""
    wrong = []
    for path in TREES:
        if package_of(path) in ("config", "cli", "modelarts") or path.name in BUILDERS:
            continue
        names = [name.split(".") for name in imported(path)]
        classes = [name[-1] for name in names if name[:2] == ["mindloc", "config"]]
        wrong += [
            f"{name_of(path)} imports {name}"
            for name in classes
            if name == "Config" or not (name.endswith("Config") or name in ("config", "sections"))
        ]
    assert wrong == []


def test_every_module_has_a_docstring():
    assert [name_of(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_modules_are_short():
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in TREES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_module_names_are_specific():
    wrong = [name_of(path) for path in TREES if VAGUE_NAMES & {*path.stem.split("_"), path.parent.name}]
    assert wrong == []


def test_only_these_files_name_views():
    lines = [
        f"{name_of(path)}: {line.strip()}"
        for path in TREES
        if not name_of(path).startswith(NAMES_VIEWS)
        for line in path.read_text(encoding="utf-8").splitlines()
        if VIEW_WORDS.search(line)
    ]
    assert len(lines) < MOST_VIEW_LINES, "\n".join(lines)


def test_every_module_on_the_plan_exists():
    plan = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/\w+\.py)`", plan)
    assert len(named) > 20
    assert [name for name in named if not any((root / name).is_file() for root in (PACKAGE, PROJECT))] == []
