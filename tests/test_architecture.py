"""Rooms and modules: what eval's top level holds, how long a module may be, and no import circle of any kind."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("sdcxr", "data_prep", "eval", "ablation")
ENTRY = 'if __name__ == "__main__"'
SHARED_BY_COMMANDS = {"command", "scores", "known_answers"}  # of eval
MAX_LINES = 400


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    return {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(name: str, path: Path) -> set[str]:
    """Modules of ours that a module imports anywhere, also inside functions and for types; without its own packages.

    `from package import thing` is an import of the module `package.thing` where there is one, else of the package.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {child if child in modules() else node.module for child in children}
    return {other for other in found if other in modules() and other != name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of a directed graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        done.add(node)
        return next((found for other in sorted(graph[node]) if (found := walk(other, [*trail, node]))), [])

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: imports_of(name, path) for name, path in modules().items()}
    assert " imports ".join(circle(graph)) == ""


def test_the_top_level_of_eval_is_its_commands_and_what_they_share():
    top = {path.stem: path for path in (ROOT / "eval").glob("*.py") if path.stem != "__init__"}
    commands = {name for name, path in top.items() if ENTRY in path.read_text(encoding="utf-8")}
    assert top.keys() - commands == SHARED_BY_COMMANDS


def test_a_module_is_short_enough_to_read_in_one_sitting():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: lines for name, lines in lengths.items() if lines >= MAX_LINES} == {}
