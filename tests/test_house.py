"""The plan of the house (docs/architecture.md), held against the code's own imports."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mindloc"

# room -> floor; a room may import rooms on lower floors and itself
FLOOR = {
    "errors": 0,
    "vocabulary": 0,
    "config": 1,
    "runtime": 2,
    "geo": 2,
    "world": 3,
    "launch": 3,
    "doctor": 3,
    "data": 4,
    "models": 4,
    "losses": 4,
    "descriptors": 4,
    "search": 5,
    "inference": 6,
    "evaluation": 7,
    "export": 7,
    "training": 8,
    "cli": 9,
    "modelarts": 10,
}
WITHOUT_MINDSPORE = ["config", "doctor", "errors", "geo", "world", "descriptors", "search", "data", "evaluation"]
WITHOUT_MINDSPORE += ["launch", "modelarts"]
ONLY_THESE_MEET_MINDSPORE = {"doctor/packages.py"}
# file -> a higher room that it imports inside a function, when a device is refused
ASKS_ABOVE = {"runtime/device.py": "doctor"}
MAY_MEET_A_CONFIG = {"build.py", "readers.py", "criterion.py", "trainer.py", "evaluate.py", "dataset.py"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[str]:
    """Dotted names of every module that the file imports, wherever in the file."""
    return [name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in names_of(node)]


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        return [node.module]
    return []


def is_asked_above(path: Path, name: str) -> bool:
    return name.split(".")[1] == ASKS_ABOVE.get(str(path.relative_to(PACKAGE)))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room, above = room_of(path), ASKS_ABOVE.get(str(path.relative_to(PACKAGE)))
    top = [name for node in ast.parse(path.read_text(encoding="utf-8")).body for name in names_of(node)]
    assert above is None or not any(name.startswith(f"mindloc.{above}") for name in top), f"{path} imports {above}"
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["mindloc", above]:
            continue
        if parts[0] != "mindloc" or len(parts) == 1 or room in ("__main__", "__init__"):
            continue
        assert parts[1] == room or FLOOR[parts[1]] < FLOOR[room], f"{room} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    files = {".".join(("mindloc", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    needs = {
        name: {other for other in imported(path) if other in files and not is_asked_above(path, other)}
        for name, path in files.items()
    }
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs, f"a circle among {', '.join(sorted(needs))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_half_of_the_system_runs_without_mindspore(path):
    where = str(path.relative_to(PACKAGE))
    if room_of(path) in WITHOUT_MINDSPORE and where not in ONLY_THESE_MEET_MINDSPORE:
        assert not any(name.split(".")[0] == "mindspore" for name in imported(path)), f"{where} imports MindSpore"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_config_stops_at_the_builders(path):
    if room_of(path) in ("config", "cli") or path.name in MAY_MEET_A_CONFIG:
        return
    meets = [name for name in imported(path) if name.split(".")[:2] == ["mindloc", "config"]]
    assert not meets, f"{path.name} meets a Config; hand it plain values"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_every_room_is_on_the_plan():
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms == set(FLOOR)


def test_every_file_on_the_plan_exists():
    project = PACKAGE.parents[1]
    plan = (project / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/\w+\.py)`", plan)
    assert len(named) > 20
    assert [name for name in named if not any((root / name).is_file() for root in (PACKAGE, project))] == []
