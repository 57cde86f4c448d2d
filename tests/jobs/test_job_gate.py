"""Printing a server's gate: it holds every script that cftools sends to such a server, and no other."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import cftools
from cftools.config.load import load
from cftools.config.schema import Config
from cftools.jobs import gate
from cftools.model.errors import UsageFault

PACKAGE = Path(cftools.__file__).parent
TEXTS = {rule.verb: rule.text for rule in gate.RULES}
READING = {"heartbeat", "inventory", "stat", "look", "digest"}
WRITING = {"prepare", "publish", "discard", "sweep", "unlink"}
TRASH = {"trash", "restore", "empty"}
CONFIG = """\
node: n
inputs: {hitcount_history: h, grade_info: g}
ssh: {user: vod, connect_timeout: 5s}
distribute: {via: VIA, pull_identity: "/keys/a key", forward_agent: AGENT}
sources:
  - {name: src1, address: 10.0.1.1, roots: [/data2, /data3]}
  - {name: src2, address: "fd00::2", roots: [/data2], port: 2222}
destinations:
  - {name: dst1, address: 10.0.0.9, root: /data}
  - {name: dst2, address: 10.0.0.10, root: /data}
servers:
  - {name: img1, address: 10.0.2.1}
  - {name: img2, address: 10.0.2.2}
bulk_delete:
  targets:
    images: {servers: [img1, dst2], root: /images}
    thumbs: {servers: [img1], root: /thumbs}
    albums: {servers: [img2, src1], root: /albums, trash: 7d}
"""


def config(tmp_path: Path, via: str = "pull", agent: str = "false") -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("VIA", via).replace("AGENT", agent))
    return load(path)


def sent_in_code() -> dict[str, str]:
    """Each verb that stands beside the name of a script's text in the code, with that text; and the calls that make a
    Script of neither."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = ".".join(["cftools", *path.relative_to(PACKAGE).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            pairs = [
                (verb.value, name.id)
                for verb, name in zip(node.args, node.args[1:], strict=False)
                if isinstance(verb, ast.Constant) and isinstance(verb.value, str) and isinstance(name, ast.Name)
            ]
            texts = {verb: getattr(importlib.import_module(place), name) for verb, name in pairs if name.isupper()}
            texts = {verb: script for verb, script in texts.items() if script.startswith("\n")}
            found.update(texts)
            if isinstance(node.func, ast.Name) and node.func.id == "Script" and not texts:
                found[f"{place}: {ast.unparse(node)}"] = ""
    return found


def test_every_script_that_cftools_sends_has_its_rule() -> None:
    found = sent_in_code()
    unclear = [place for place, script in found.items() if not script]
    assert len(unclear) == 1, unclear
    assert unclear[0].startswith("cftools.actions.arrival: Script(verb, text")  # whose callers name both
    assert {verb: script for verb, script in found.items() if script} == TEXTS


def verbs(printed: str) -> set[str]:
    (line,) = (line for line in printed.splitlines() if line.startswith("# scripts: "))
    return set(line.removeprefix("# scripts: ").split())


@pytest.mark.parametrize(
    ("server", "via", "expected"),
    [
        ("src1", "pull", READING),
        ("src1", "relay", READING | {"send"}),
        ("dst1", "pull", READING | WRITING | {"pull"}),
        ("dst1", "relay", READING | WRITING | {"receive"}),
        ("dst2", "pull", READING | WRITING | {"pull", "remove"}),
        ("img1", "pull", {"heartbeat", "stat", "look", "remove"}),
        ("img2", "pull", {"heartbeat", "stat", "look", "remove"} | TRASH),
    ],
)
def test_a_gate_runs_what_the_servers_role_needs_and_no_more(
    tmp_path: Path, server: str, via: str, expected: set[str]
) -> None:
    whole = gate.for_server(config(tmp_path, via), server)
    assert verbs(whole) == expected
    assert all((TEXTS[verb].strip("\n").encode() in unquoted(whole)) == (verb in expected) for verb in TEXTS)
    assert verbs(gate.for_server(config(tmp_path, via), server, read_only=True)) <= READING | {"send"}


def test_a_gate_deletes_what_was_asked_for_only_where_a_target_lies(tmp_path: Path) -> None:
    given = config(tmp_path)
    assert {
        name: "remove" in verbs(gate.for_server(given, name)) for name in ("src1", "src2", "dst1", "dst2", "img1")
    } == {
        "src1": False,
        "src2": False,
        "dst1": False,
        "dst2": True,
        "img1": True,
    }
    assert "remove" not in verbs(gate.for_server(given, "dst2", read_only=True))
    assert "/albums" not in gate.for_server(given, "src1")


def unquoted(printed: str) -> bytes:
    """The text with its quoted quotes put right."""
    return printed.encode().replace(b"""'"'"'""", b"'")


def test_the_head_says_how_to_bind_a_key(tmp_path: Path) -> None:
    source = gate.for_server(config(tmp_path), "src1")
    assert 'command="/usr/local/bin/cftools-gate",restrict ' in source
    assert 'command="/usr/local/bin/cftools-gate rsync",restrict ' in source
    assert "cftools-gate rsync" not in gate.for_server(config(tmp_path, "relay"), "src1")
    assert "restrict,agent-forwarding" not in gate.for_server(config(tmp_path), "dst1")
    assert "restrict,agent-forwarding" in gate.for_server(config(tmp_path, agent="true"), "dst1")
    assert "delete files" not in source
    assert "delete files" in gate.for_server(config(tmp_path), "dst1")
    bulk = gate.for_server(config(tmp_path), "img1")
    assert "#   /images\n#   /thumbs\n" in bulk
    assert "#   /data\n#   /images\n#" in gate.for_server(config(tmp_path), "dst2")


def test_what_cannot_be_restricted_is_refused_when_it_is_printed(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="--server dst9: not in the config; it has src1, src2, dst1"):
        gate.for_server(config(tmp_path), "dst9")
    with pytest.raises(UsageFault, match="rsync cannot be held to a folder"):
        gate.for_roots(["/data two"], rsync=True)
    for root in ("data", "/", "/data/", "/a//b", "/a/../b", "/a/.", "/a\nb", ""):
        with pytest.raises(UsageFault, match="--root"):
            gate.for_roots([root])
    assert verbs(gate.for_roots(["/data two"])) == READING | WRITING | TRASH | {"send", "receive", "remove"}
    assert verbs(gate.for_roots(["/data two"], read_only=True)) == READING | {"send"}
