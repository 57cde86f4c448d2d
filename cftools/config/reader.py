"""From the node tree to the config, along the schema: notes every fault and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from cftools.config import check, tree, values
from cftools.config.fields import Field, Shape, fields, meaning
from cftools.config.schema import Config, Key, Section
from cftools.config.tree import Place
from cftools.config.units import quoted

_TAG = "tag:yaml.org,2002:"
_READ_AS = {"bool": "yes or no", "int": "a number", "float": "a number", "timestamp": "a date"}

SectionType = TypeVar("SectionType", bound=Section)


class Fault(NamedTuple):
    """One fault of the file."""

    place: Place
    key: str
    what: str


class Reader:
    """Walks the node tree along the schema; a stand-in takes the place of what is faulty, so that the walk goes on.

    ``faults`` holds what was found. ``folder`` is the one that relative paths start from.
    """

    def __init__(self, folder: Path) -> None:
        self.faults: list[Fault] = []
        self._folder = folder
        self._places: dict[str, Place] = {}
        self._broken: set[str] = set()

    def whole(self, root: yaml.Node) -> Config:
        """The config below the root node; worth nothing when there are faults."""
        if not isinstance(root, yaml.MappingNode):
            self.refuse(root, "config", "must be a mapping of keys, such as node: seoul-1")
            return self._stand_in(Config)
        config = self._section(Config, root, "")
        for finding in check.findings(config):
            if not any(self._is_broken(key) for key in finding.keys):
                self.faults.append(Fault(self._place(finding.keys[0]), finding.keys[0], finding.what))
        return config

    def refuse(self, node: yaml.Node, key: str, what: str) -> None:
        """Notes a fault at the node; what depends on ``key`` is not looked at any more."""
        self.faults.append(Fault(tree.place_of(node), key or "config", what))
        self._broken.add(key)

    def _section(self, section: type[SectionType], node: yaml.Node, key: str) -> SectionType:
        """The section in ``node``; one in which nothing is written has its defaults."""
        given = self._pairs(node, key)
        if given is None:
            return self._stand_in(section)
        known = fields(section)
        for name in given.keys() - known.keys():
            self.refuse(given[name][0], _join(key, name), _unknown(name, section))
        built: dict[str, Any] = {}
        for name, field in known.items():
            place = _join(key, name)
            if name in given:
                self._places[place] = tree.place_of(given[name][1])
                built[name] = self._value(field.shape, field, given[name][1], place)
            elif field.required:
                self.refuse(node, place, f"is missing; {_expected(field)}")
                built[name] = self._blank(field)
            else:
                built[name] = self._default(field)
        return section(**built)

    def _pairs(self, node: yaml.Node, key: str) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]] | None:
        if _nothing(node):
            return {}
        if not isinstance(node, yaml.MappingNode) or node.tag != _TAG + "map":
            self.refuse(node, key, f"must be a mapping, not {_form(node)}")
            return None
        return tree.pairs(node, lambda at, name, what: self.refuse(at, _join(key, name) if name else key, what))

    def _value(self, shape: Shape, field: Field, node: yaml.Node, key: str) -> Any:
        if shape.optional and node.tag == _TAG + "null" and node.value:
            return None
        if shape.section is not None:
            return self._section(shape.section, node, key)
        if shape.kind == "mapping":
            return self._mapping(shape, field, node, key)
        if shape.kind == "list":
            return self._list(shape, field, node, key)
        try:
            return _scalar(shape, field, node, self._folder)
        except ValueError as fault:
            self.refuse(node, key, str(fault))
            return self._blank(field)

    def _list(self, shape: Shape, field: Field, node: yaml.Node, key: str) -> list[Any]:
        assert shape.item is not None
        if not isinstance(node, yaml.SequenceNode) or node.tag != _TAG + "seq":
            hint = f"; write {key.rpartition('.')[2]}: [{node.value}]" if _is_text(node) else ""
            self.refuse(node, key, f"must be a list, not {_form(node)}{hint}")
            return []
        if not node.value and field.required:
            self.refuse(node, key, f"is empty; give at least one; {_expected(field)}")
        items = []
        for index, item in enumerate(node.value):
            place = f"{key}[{index}]"
            self._places[place] = tree.place_of(item)
            if shape.item.section is not None and _nothing(item):
                self.refuse(item, place, "is empty; write its keys after the -, or take the - out")
                items.append(self._stand_in(shape.item.section))
                continue
            items.append(self._value(shape.item, _item_field(field, shape.item), item, place))
        return items

    def _mapping(self, shape: Shape, field: Field, node: yaml.Node, key: str) -> dict[str, Any]:
        assert shape.item is not None
        built = {}
        for name, (key_node, value) in (self._pairs(node, key) or {}).items():
            place = _join(key, name)
            try:
                values.name(name, self._folder)
            except ValueError as fault:
                self.refuse(key_node, place, str(fault))
            self._places[place] = tree.place_of(value)
            built[name] = self._value(shape.item, _item_field(field, shape.item), value, place)
        return built

    def _default(self, field: Field) -> Any:
        if field.default is None or field.default in ("", [], {}):
            return copy(field.default)
        if field.shape.section is not None:
            return self._stand_in(field.shape.section)
        return values.path(field.default, self._folder) if field.key.unit == "path" else field.default

    def _blank(self, field: Field) -> Any:
        """Stands for a required value that is missing, or one that is faulty."""
        if not field.required:
            return self._default(field)
        if field.shape.section is not None:
            return self._stand_in(field.shape.section)
        return [] if field.shape.kind == "list" else ""

    def _stand_in(self, section: type[SectionType]) -> SectionType:
        return section(**{name: self._blank(field) for name, field in fields(section).items()})

    def _place(self, key: str) -> Place:
        while key and key not in self._places:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self._places.get(key, Place(1, 1))

    def _is_broken(self, key: str) -> bool:
        return any(_within(key, broken) or _within(broken, key) for broken in self._broken)


def _scalar(shape: Shape, field: Field, node: yaml.Node, folder: Path) -> Any:
    """The value of a scalar node. Raises ValueError."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(  # noqa: TRY004
            f"must be one value, not {_form(node)}; {_expected(field)}"
        )
    tag = node.tag.removeprefix(_TAG)
    if tag not in ("str", "null", *_READ_AS):
        raise ValueError(f"the tag {quoted(node.tag)} is not known here; leave it out")
    if tag == "null":
        raise ValueError(f"has no value; give one or take it out; {_expected(field)}")
    text, key = node.value, field.key
    if shape.kind == "choice":
        if text not in shape.choices:
            raise ValueError(f"{quoted(text)} is none of {', '.join(shape.choices)}{_alike(text, shape.choices)}")
        return text
    if shape.kind == "text":
        if tag != "str" and key.unit not in values.AS_WRITTEN:
            raise ValueError(f"{quoted(text)} is read as {_READ_AS[tag]}, not as text; put it in quotes")
        if not text:
            if not field.required and field.default in ("", None):
                return ""
            raise ValueError(f"is empty; {_expected(field)}")
        return values.TEXTS[key.unit](text, folder)
    if key.unit == "" and node.style in ("'", '"'):
        raise ValueError(f"{quoted(text)} is text; write it without quotes")
    if shape.kind == "flag":
        return values.flag(text)
    amount = values.AMOUNTS[key.unit](text)
    _check_bounds(amount, key)
    return float(amount) if shape.kind == "number" else int(amount)


def _check_bounds(amount: float, key: Key) -> None:
    show = values.SHOWN[key.unit]
    if key.least is not None and amount < key.least:
        raise ValueError(f"{show(amount)} is too little; at least {show(key.least)}")
    if key.most is not None and amount > key.most:
        raise ValueError(f"{show(amount)} is too much; at most {show(key.most)}")
    if amount < 0:
        raise ValueError(f"{show(amount)} is below 0")


def _item_field(field: Field, shape: Shape) -> Field:
    return Field(field.name, shape, field.key, True, None)


def _expected(field: Field) -> str:
    text = f"meaning: {meaning(field).rstrip('.')}"
    return f"{text}, as {field.key.example}" if field.key.example else text


def _unknown(name: str, section: type[Section]) -> str:
    known = list(fields(section))
    hint = _alike(name, known)
    return f"is no known key{hint}" if hint else f"is no known key; known here: {', '.join(known)}"


def _alike(text: str, choices: Sequence[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(text[:60].lower(), choices, n=1)
    if not found and len(text) > 2:
        found = [choice for choice in choices if choice.startswith(text.lower())]
    return f" (did you mean {found[0]}?)" if found else ""


def _nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null" and not node.value


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str" and 0 < len(node.value) < 40


def _form(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if _nothing(node) else quoted(node.value)
    standard = node.tag in (_TAG + "map", _TAG + "seq")
    form = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    return form if standard else f"{form} with the tag {quoted(node.tag)}"


def _join(key: str, name: str) -> str:
    shown = quoted(name)[1:-1]
    return f"{key}.{shown}" if key else shown


def _within(key: str, whole: str) -> bool:
    return key == whole or (key.startswith(whole) and key[len(whole)] in ".[")
