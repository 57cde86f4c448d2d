"""The example config file and the JSON schema, both written from the schema of the keys.

``python -m cftools.config.render > conf/cftools.example.yaml`` renews the example file.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from cftools.config import units, values
from cftools.config.fields import Field, Shape, fields, meaning
from cftools.config.schema import Config, Section, ServerSsh

WIDTH = 120
COMMENTS_FROM = 44  # column of the comment after a key, unless the key needs more

_HEAD = """\
The config of one node. cftools takes --config FILE, else $CFTOOLS_CONFIG, else conf/cftools.yaml, else
/etc/cftools/cftools.yaml; `cftools config check` tells every fault of it.

A key that is shown with a value has this value by default, except where only you can know it: node, inputs,
hot_files, sources, destinations. A key behind # is unset by default; its value is an example.
Paths are relative to this file's folder, ~ is your home directory; paths on servers are absolute.
Durations carry ms, s, m, h, d or w (1h30m), sizes B, kB, MB, GB, TB, PB or KiB to PiB, rates kbit, Mbit or Gbit.
"""
_NOTES = {
    "state": "One folder a node; on a local disk, because its locks are file locks. Several managers share a database.",
    "destinations": "Of several copies the one on the highest address stays, by number: 10.0.0.10 is above 10.0.0.9.",
}

_ENTRIES = {
    "targets": (
        "images: {servers: [img1, img2], root: /images, trash: 7d}",
        "photos: {url: s3://albums/photos, endpoint: https://s3.example.com}",
    ),
    "outboxes": ("shop: {dsn: SHOP_DATABASE}",),
}

_LIVE = ("event_log_dir",)  # optional, but hot_files is of no use without it

_PATTERNS = {
    "duration": units.DURATION_PATTERN,
    "size": units.SIZE_PATTERN,
    "rate": units.RATE_PATTERN,
    "file": r"/.*[^/].*",
    "account": values.ACCOUNT_PATTERN,
    "name": values.NAME_PATTERN,
    "address": r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*",
    "filename": r"[^/]+",
    "daily": r"[^/]*%[^/]*",
    "database": "sqlite:.+|postgres(ql)?://.+",
}
_REMARKS = {
    "path": "a path here, relative to the config file's folder",
    "file": "an absolute path on the server",
    "duration": "a duration such as 500ms, 10m or 1h30m",
    "size": "a size such as 64MiB or 2TB",
    "rate": "bits a second, such as 10Mbit",
    "percent": "whole percents",
}


def example() -> str:
    """The commented example file, YAML. It loads as it stands."""
    lines = [f"# {line}".rstrip() for line in _HEAD.splitlines()]
    for field in fields(Config).values():
        lines.append("")
        lines += _top(field)
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the config file, for editors that complete and check it."""
    definitions: dict[str, Any] = {}
    root = _object_schema(Config, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cftools config",
        **root,
        "$defs": definitions,
    }


def _top(field: Field) -> Iterator[str]:
    section, item = field.shape.section, field.shape.item
    if section is None and item is None:
        yield _line(f"{field.name}: {field.key.example or _shown(field)}", meaning(field), "")
        return
    yield from _comment(meaning(field))
    if field.name in _NOTES:
        yield from _comment(_NOTES[field.name])
    if section is not None:
        yield f"{field.name}:"
        yield from _keys(section)
    elif item is not None and item.section is not None:
        yield from _entry_comments(item.section)
        lead = "" if field.required else "# "
        yield f"{lead}{field.name}:"
        for number in range(2):
            yield f"{lead}  - {_inline(item.section, number)}"


def _keys(section: type[Section]) -> Iterator[str]:
    for field in fields(section).values():
        if field.shape.kind == "mapping" and field.shape.item is not None and field.shape.item.section is not None:
            inner = field.shape.item.section
            yield _line(f"# {field.name}:", meaning(field), "  ")
            yield from (f"  #   {entry}" for entry in _ENTRIES[field.name])
            yield from _inner_comments(inner)
            continue
        if field.shape.section is not None:
            yield _line(f"# {field.name}: {{}}", meaning(field), "  ")
            yield from _inner_comments(field.shape.section)
            continue
        told = all(choice in meaning(field) for choice in field.shape.choices)
        text = meaning(field) if told else f"{meaning(field)} ({' or '.join(field.shape.choices)})"
        if field.required or field.name in _LIVE:
            yield _line(f"{field.name}: {field.key.example}", text, "  ")
        elif field.default in ("", None):
            yield _line(f"# {field.name}: {field.key.example}", text, "  ")
        else:
            instead = f", as {field.key.example}" if field.key.example else ""
            yield _line(f"{field.name}: {_shown(field)}", text + instead, "  ")


def _inner_comments(section: type[Section]) -> Iterator[str]:
    """What the keys of an entry that is itself a comment mean, with their defaults."""
    for field in fields(section).values():
        default = f" ({_shown(field)})" if not field.required and field.default not in ("", None, []) else ""
        yield f"  #     # {field.name}: {meaning(field)}{default}"


def _entry_comments(section: type[Section]) -> Iterator[str]:
    """What the keys of one server's entry mean."""
    common = fields(ServerSsh)
    for field in fields(section).values():
        if field.name not in common:
            optional = "" if field.required else "optional; "
            yield f"#   {field.name + ':':<10}{optional}{meaning(field)}"
    yield from _comment(f"{', '.join(common)}: as under ssh, for this server alone", "  ")


def _inline(section: type[Section], number: int) -> str:
    """An entry on one line; ``number`` counts its name and address on."""
    shown = []
    for field in fields(section).values():
        if field.required or (field.key.example and number == 0):
            text = field.key.example
            if field.name in ("name", "address"):
                text = re.sub(r"\d+$", lambda found: str(int(found.group()) + number), text)
            shown.append(f"{field.name}: {text}")
    return "{" + ", ".join(shown) + "}"


def _shown(field: Field) -> str:
    """The default as it is written in the file."""
    default, kind = field.default, field.shape.kind
    if kind in ("whole", "number"):
        return str(default) if field.key.unit == "percent" else values.SHOWN[field.key.unit](default)
    if kind == "flag":
        return "true" if default else "false"
    if kind == "list":
        return "[" + ", ".join(default) + "]"
    return str(default)


def _line(key: str, comment: str, indent: str) -> str:
    """The key with its comment beside it, or above it when it is too long."""
    start = f"{indent}{key}"
    line = f"{start:<{COMMENTS_FROM}}# {comment}" if len(start) < COMMENTS_FROM else f"{start}  # {comment}"
    return line if len(line) <= WIDTH else f"{indent}# {comment}\n{start}"


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"# {indent}{line}" for line in textwrap.wrap(text, WIDTH - 2 - len(indent))]


def _object_schema(section: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for field in fields(section).values():
        schema = _value_schema(field.shape, field, definitions)
        properties[field.name] = {"description": _description(field), **schema, **_default(field)}
    required = [field.name for field in fields(section).values() if field.required]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _value_schema(shape: Shape, field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    if shape.optional:
        inner = _value_schema(shape._replace(optional=False), field, definitions)
        return {"anyOf": [inner, {"type": "null"}]}
    if shape.section is not None:
        name = shape.section.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object_schema(shape.section, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if shape.item is not None:
        item = _value_schema(shape.item, field._replace(required=True), definitions)
        if shape.kind == "mapping":
            names = {"pattern": _whole_text(values.NAME_PATTERN)}
            return {"type": "object", "additionalProperties": item, "propertyNames": names}
        return {"type": "array", "items": item, **({"minItems": 1} if field.required else {})}
    if shape.kind == "choice":
        return {"enum": list(shape.choices)}
    if shape.kind == "flag":
        return {"type": "boolean"}
    if shape.kind == "text" or field.key.unit in ("duration", "size", "rate"):
        return _text_schema(field)
    whole = {"type": "integer", **_bounds(field)}
    if field.key.unit == "percent":
        return {"anyOf": [whole, {"type": "string", "pattern": _whole_text(units.PERCENT_PATTERN)}]}
    return whole


def _text_schema(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    empty = not field.required and field.default in ("", None) and field.shape.kind == "text"
    if field.key.unit in _PATTERNS:
        pattern = _PATTERNS[field.key.unit]
        schema["pattern"] = _whole_text(f"({pattern})?" if empty else pattern)
    elif not empty:
        schema["minLength"] = 1
    return schema


def _whole_text(pattern: str) -> str:
    return f"^({pattern.replace(chr(92) + 'd', '[0-9]')})$"


def _bounds(field: Field) -> dict[str, Any]:
    percent = field.key.unit == "percent"
    least = field.key.least if field.key.least is not None else 0
    most = field.key.most if field.key.most is not None else (100 if percent else None)
    return {"minimum": int(least), **({} if most is None else {"maximum": int(most)})}


def _default(field: Field) -> dict[str, Any]:
    if field.required or field.shape.section is not None or field.default in ("", None):
        return {}
    if field.shape.kind in ("whole", "flag", "list", "mapping"):
        return {"default": field.default}
    return {"default": _shown(field)}


def _description(field: Field) -> str:
    remark = _REMARKS.get(field.key.unit, "")
    return f"{meaning(field).rstrip('.')} ({remark})" if remark else meaning(field)


if __name__ == "__main__":
    print(example(), end="")
