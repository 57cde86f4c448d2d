"""YAML text as a tree of nodes that know where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import yaml

from cftools.config.units import quoted

DEEPEST = 60  # levels of nesting; libyaml's node composer overruns the C stack at some ten thousand
MERGE = "tag:yaml.org,2002:merge"

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Place(NamedTuple):
    """A position in the file, both counted from 1."""

    line: int
    column: int


class SyntaxFault(ValueError):
    """The text is not one YAML document; ``place`` tells where it goes wrong."""

    def __init__(self, place: Place, what: str) -> None:
        self.place = place
        super().__init__(what)


def compose(raw: bytes) -> yaml.Node | None:
    """The root node of the YAML document in ``raw``, UTF-8; None when it is empty. Raises SyntaxFault."""
    text = _decoded(raw)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(text, loader)
        return yaml.compose(text, loader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise SyntaxFault(place, _problem(fault, text, place)) from None
    except yaml.YAMLError as fault:
        raise SyntaxFault(Place(1, 1), " ".join(str(fault).split())) from None


def place_of(node: yaml.Node) -> Place:
    """Where the node begins."""
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def pairs(
    node: yaml.MappingNode, refuse: Callable[[yaml.Node, str, str], None]
) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys of a mapping with their key and value nodes, merge keys (``<<``) carried out.

    A key that is given twice, or is no text, goes to ``refuse`` with its node, its text and what is wrong.
    """
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    _collect(node, found, refuse, {id(node)})
    return found


def _collect(
    node: yaml.MappingNode,
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]],
    refuse: Callable[[yaml.Node, str, str], None],
    seen: set[int],
) -> None:
    own: dict[str, yaml.ScalarNode] = {}
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            refuse(key, "", "a key must be a plain word")
        elif key.tag == MERGE:
            merged.append(value)
        elif key.value in own:
            refuse(key, key.value, f"is given twice, first on line {place_of(own[key.value]).line}")
        else:
            own[key.value] = key
            found.setdefault(key.value, (key, value))
    for value in merged:
        _merge(value, found, refuse, seen)


def _merge(
    value: yaml.Node,
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]],
    refuse: Callable[[yaml.Node, str, str], None],
    seen: set[int],
) -> None:
    for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
        if not isinstance(each, yaml.MappingNode):
            refuse(each, "<<", "takes a mapping, or a list of mappings")
        elif id(each) not in seen:  # a mapping may be merged into itself, and the same one a thousand times
            seen.add(id(each))
            _collect(each, found, refuse, seen)


def _decoded(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        place = _place_at(raw[: fault.start].decode("utf-8-sig", errors="replace"))
        byte = raw[fault.start]
        raise SyntaxFault(place, f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
    if bad := _NOT_YAML.search(text):
        what = f"the character U+{ord(bad.group()):04X} is not allowed in YAML; take it out"
        raise SyntaxFault(_place_at(text[: bad.start()]), what)
    return text


def _place_at(before: str) -> Place:
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _check_depth(text: str, loader: type) -> None:
    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                mark = event.start_mark
                place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
                raise SyntaxFault(place, f"more than {DEEPEST} levels of nesting")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _problem(fault: yaml.MarkedYAMLError, text: str, place: Place) -> str:
    lines = text.splitlines()
    here = lines[place.line - 1][place.column - 1 :] if place.line <= len(lines) else ""
    if here.startswith("\t"):
        return "a tab; YAML is indented with spaces"
    problem = " ".join((fault.problem or "not YAML").split())
    context = " ".join((fault.context or "").split())
    what = f"{problem} ({context})" if context else problem
    return f"{what} at {quoted(here)}" if here else f"{what} at the end of the line"
