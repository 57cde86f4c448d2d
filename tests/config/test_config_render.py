"""The example file and the JSON schema say what the schema says.

When the keys changed: ``python -m cftools.config.render > conf/cftools.example.yaml`` renews the example.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cftools.config import render
from cftools.config.fields import fields, meaning
from cftools.config.load import load
from cftools.config.schema import Config, Section
from cftools.model.errors import ConfigFaults

EXAMPLE = Path(__file__).parents[2] / "conf" / "cftools.example.yaml"


@pytest.fixture
def example_file(tmp_path: Path) -> Path:
    path = tmp_path / "cftools.yaml"
    path.write_text(render.example())
    return path


def sections() -> list[type[Section]]:
    found: list[type[Section]] = []
    waiting: list[type[Section]] = [Config]
    while waiting:
        section = waiting.pop()
        found.append(section)
        shapes = [field.shape for field in fields(section).values()]
        inner = [shape.section or (shape.item.section if shape.item else None) for shape in shapes]
        waiting += [each for each in inner if each is not None]
    return found


def test_the_example_in_the_tree_is_the_generated_one() -> None:
    assert EXAMPLE.read_text() == render.example(), "renew it: see the top of this file"


def test_the_example_shows_the_defaults(example_file: Path, tmp_path: Path) -> None:
    shown = load(example_file)
    bare = tmp_path / "bare.yaml"
    given = yaml.safe_load(render.example())
    needed = {key: given[key] for key in ("node", "inputs", "hot_files", "sources", "destinations")}
    bare.write_text(yaml.safe_dump(needed))
    assert shown == load(bare)


def test_the_example_is_ready_for_hot_files(example_file: Path) -> None:
    config = load(example_file)
    assert config.hot_files is not None
    assert config.inputs.event_log_dir
    assert len(config.sources) == len(config.destinations) == 2


def test_the_example_still_loads_with_every_key_that_is_behind_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    lines = [
        re.sub(r"^( *)# (?=( *[a-z_]+: [^ ].*# )|servers:$|  - \{| *targets: |  images: )", r"\1", line)
        for line in render.example().splitlines()
    ]
    path.write_text("\n".join(lines))
    config = load(path)
    assert config.distribute.speed_limit == 10e6
    assert config.ssh.user == "vod"
    assert config.guards.mount_marker == ".cftools-root"
    assert [server.name for server in config.servers] == ["img1", "img2"]
    assert config.bulk_delete.targets["images"].servers == ["img1", "img2"]


def test_the_example_explains_every_key() -> None:
    text = render.example()
    for section in sections():
        for field in fields(section).values():
            assert re.search(rf"\b{field.name}\b", text), field.name
            assert meaning(field) or section.__name__ == "ServerSsh", f"{section.__name__}.{field.name} has no meaning"


def test_the_example_keeps_to_the_width_of_a_screen() -> None:
    assert max(map(len, render.example().splitlines())) <= render.WIDTH


def test_the_json_schema_is_json_and_names_every_key() -> None:
    schema = json.loads(json.dumps(render.json_schema()))
    assert schema["$schema"].endswith("2020-12/schema")
    for section in sections():
        found = schema if section is Config else schema["$defs"][section.__name__]
        assert list(found["properties"]) == list(fields(section))
        assert found["additionalProperties"] is False
        assert all(part["description"] for part in found["properties"].values())


def test_the_json_schema_accepts_the_example() -> None:
    schema = render.json_schema()
    assert list(faults(schema, yaml.safe_load(render.example()), schema)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nodes", "x"),
        ("node", 5),
        ("sources", []),
        ("dedup", {"deletes_per_file": "two"}),
        ("evict", {"limit_percent": 100}),
        ("evict", {"limit_percent": "9O%"}),
        ("evict", {"min_residency": 60}),
        ("evict", {"min_residency": "60"}),
        ("guards", {"max_delete_bytes": "50"}),
        ("guards", {"max_deletes": True}),
        ("distribute", {"speed_limit": "10MB"}),
        ("distribute", {"checksum": "yes"}),
        ("distribute", {"pull_identity": "relative"}),
        ("bulk_delete", {"targets": {"a b": {"servers": ["x"], "root": "/x"}}}),
    ],
)
def test_the_json_schema_refuses_what_loading_refuses(key: str, value: object, tmp_path: Path) -> None:
    schema = render.json_schema()
    given = {**yaml.safe_load(render.example()), key: value}
    assert list(faults(schema, given, schema)) != []
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigFaults, match=key):
        load(path)


def test_defaults_in_the_json_schema_fit_their_own_patterns() -> None:
    schema = render.json_schema()
    for section in schema["$defs"].values():
        for part in section["properties"].values():
            if "default" in part:
                assert list(faults(part, part["default"], schema)) == []


def faults(schema: dict[str, Any], value: object, root: dict[str, Any]) -> list[str]:
    """As much of a JSON schema validator as this schema needs."""
    if "$ref" in schema:
        return faults(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in schema:
        tried = [faults(each, value, root) for each in schema["anyOf"]]
        return [] if [] in tried else tried[0]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{value!r} not in enum"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if not isinstance(value, types[schema["type"]]) or (schema["type"] == "integer" and isinstance(value, bool)):
        return [f"{value!r} is no {schema['type']}"]
    found = []
    if isinstance(value, str):
        found += [] if re.search(schema.get("pattern", ""), value) else [f"{value!r} against {schema['pattern']}"]
        found += [] if len(value) >= schema.get("minLength", 0) else ["too short"]
    elif isinstance(value, int):
        found += (
            [] if schema.get("minimum", value) <= value <= schema.get("maximum", value) else [f"{value} out of bounds"]
        )
    elif isinstance(value, list):
        found += [] if len(value) >= schema.get("minItems", 0) else ["too few"]
        found += [fault for item in value for fault in faults(schema["items"], item, root)]
    elif isinstance(value, dict):
        known, others = schema.get("properties", {}), schema["additionalProperties"]
        found += [f"{name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            if not re.search(schema.get("propertyNames", {}).get("pattern", ""), name):
                found.append(f"name {name}")
            inner = known.get(name, others)
            found += faults(inner, item, root) if inner else [f"{name} is unknown"]
    return found


def test_a_config_goes_through_msgspec_as_it_is(example_file: Path) -> None:
    config = load(example_file)
    assert msgspec.convert(msgspec.to_builtins(config), Config) == config
