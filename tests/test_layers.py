"""Imports point one way, and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cftools

PACKAGE = Path(cftools.__file__).parent
LONGEST_FILE = 400
BASE = {"config", "model", "pipe"}
LOWER = BASE | {"remote", "state"}
# What each part of the package may import beside itself. "" is the package itself, with its version.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": LOWER | {"jobs", "report", "facts", "plans", "actions", "lab"},
    "jobs": LOWER | {"facts", "plans", "actions", "lab"},
    "report": {"config", "model"},
    "actions": LOWER | {"facts"},
    "facts": BASE | {"remote"},
    "plans": BASE,
    "lab": LOWER,
    "remote": BASE,
    "state": BASE,
    "config": {"model"},
    "pipe": {"model"},
    "model": set(),
}


def imports(node: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all a module imports, also inside functions; what only type checkers see is left out."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = list(node.orelse)
    elif isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
    for child in children:
        yield from imports(child, package)


def part_of(name: str) -> str:
    """The part of cftools that a full name lies in, or the empty string for other packages and the package itself."""
    words = name.split(".")
    return words[1] if words[0] == "cftools" and len(words) > 1 and words[1] != "__version__" else ""


def faults(package: Path) -> list[str]:
    """Every import that points the wrong way, and every file that is too long, as FILE:LINE: what."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        part = place.parts[0].removesuffix(".py")
        text = path.read_text()
        if text.count("\n") > LONGEST_FILE:
            found.append(f"{place}:{LONGEST_FILE}: longer than {LONGEST_FILE} lines")
        if part not in ALLOWED:
            found.append(f"{place}:1: {part} is not in the list of layers")
            continue
        home = ".".join(["cftools", *place.parts[:-1]])
        for line, name in imports(ast.parse(text), home):
            other = part_of(name)
            if other and other != part and other not in ALLOWED[part]:
                found.append(f"{place}:{line}: {part} imports {other}")
    return found


def test_imports_point_downwards_and_files_are_short() -> None:
    assert faults(PACKAGE) == []


def test_every_part_of_the_package_is_looked_at() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if list(path.rglob("*.py")) or path.is_file()}
    assert parts - {"py.typed", "__pycache__"} == set(ALLOWED)


def test_the_layers_have_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        bottom = [part for part, below in left.items() if not below & set(left)]
        assert bottom, f"these import each other: {sorted(left)}"
        for part in bottom:
            del left[part]


PLANTED = {
    "plans/bad.py": ("import math\nfrom cftools.state import tasks\n", "plans/bad.py:2: plans imports state"),
    "plans/deep/worse.py": ("import cftools.remote.pool\n", "plans/deep/worse.py:1: plans imports remote"),
    "facts/lazy.py": ("def f():\n    from cftools.jobs import job\n", "facts/lazy.py:2: facts imports jobs"),
    "model/root.py": ("from cftools import pipe, __version__\n", "model/root.py:1: model imports pipe"),
    "model/up.py": ("try:\n    from ..cli import app\nexcept ImportError: pass\n", "model/up.py:2: model imports cli"),
    "state/other.py": (
        "if TYPE_CHECKING:\n    from cftools.jobs import job\nelse:\n    from cftools.facts import lines\n",
        "state/other.py:4: state imports facts",
    ),
    "report/gather.py": ("import cftools.facts.files as f\n", "report/gather.py:1: report imports facts"),
    "jobs/long.py": ("x = 1\n" * (LONGEST_FILE + 1), "jobs/long.py:400: longer than 400 lines"),
    "novel/new.py": ("", "novel/new.py:1: novel is not in the list of layers"),
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, place: str) -> None:
    text, fault = PLANTED[place]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert faults(tmp_path) == [fault]


def test_what_is_allowed_is_no_violation(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    allowed = "import polars\nfrom cftools import __version__, pipe\nfrom . import gather\nfrom ..facts import lines\n"
    allowed += "if TYPE_CHECKING:\n    from cftools.cli import app\n"
    (tmp_path / "jobs" / "fine.py").write_text(allowed + "\n" * (LONGEST_FILE - allowed.count("\n")))
    assert faults(tmp_path) == []


def test_no_thread_converts_rows() -> None:
    """The first msgspec.convert to a type in several threads at once crashes the process; see state/tasks.py."""
    users = [path for path in sorted(PACKAGE.rglob("*.py")) if "msgspec.convert(" in path.read_text()]
    assert users == []
