"""The schema's fields as values: what loading and rendering need to know of each key."""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from cftools.config.schema import Key, Section

Kind = Literal["text", "whole", "number", "flag", "choice", "list", "mapping", "section"]

_KINDS: dict[Any, Kind] = {str: "text", int: "whole", float: "number", bool: "flag"}


class Shape(NamedTuple):
    """The type of a value. ``section`` is set for sections, ``choices`` for choices, ``item`` for what a list or a
    mapping holds; ``optional`` means that null is allowed."""

    kind: Kind
    section: type[Section] | None = None
    choices: tuple[str, ...] = ()
    item: Shape | None = None
    optional: bool = False


class Field(NamedTuple):
    """One key of a section. ``default`` is meaningless when ``required``."""

    name: str
    shape: Shape
    key: Key
    required: bool
    default: Any


@cache
def fields(section: type[Section]) -> dict[str, Field]:
    """The keys of ``section`` by name, in the order of the schema."""
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for info in msgspec.structs.fields(section):
        hint = hints[info.name]
        key = Key("")
        if get_origin(hint) is Annotated:
            hint, key = get_args(hint)
        default = info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
        found[info.name] = Field(info.name, _shape(hint), key, info.required, default)
    return found


def meaning(field: Field) -> str:
    """What the key means: its own text, or that of the section it holds."""
    return field.key.meaning or (field.shape.section.__doc__ or "" if field.shape.section else "")


def _shape(hint: Any) -> Shape:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not types.NoneType)
        return _shape(inner)._replace(optional=True)
    if origin is Literal:
        return Shape("choice", choices=arguments)
    if origin is list:
        return Shape("list", item=_shape(arguments[0]))
    if origin is dict:
        return Shape("mapping", item=_shape(arguments[1]))
    if isinstance(hint, type) and issubclass(hint, Section):
        return Shape("section", section=hint)
    return Shape(_KINDS[hint])
