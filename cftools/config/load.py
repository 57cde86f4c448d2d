"""Finds and reads the config file: every fault of it at once, each with its place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cftools.config import tree, urls, values
from cftools.config.reader import Fault, Reader
from cftools.config.schema import Config
from cftools.model.errors import ConfigFaults

VARIABLE = "CFTOOLS_CONFIG"
PLACES = (Path("conf/cftools.yaml"), Path("/etc/cftools/cftools.yaml"))
LARGEST = 8 << 20  # bytes; a larger file is some other file
EXAMPLE = "write one with: cftools config example >"


def find_config(option: Path | None, environment: Mapping[str, str], places: Sequence[Path] = PLACES) -> Path:
    """The config file to use: --config, else $CFTOOLS_CONFIG, else the first of ``places`` that exists.

    Raises ConfigFaults that names what was looked for when there is none.
    """
    if option is not None:
        return option
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE])
    for place in places:
        if os.path.lexists(place):
            return place
    looked = " and ".join(str(place) for place in places)
    what = f"no config file: looked for --config, ${VARIABLE}, {looked} (from {_shown(Path.cwd())})"
    raise ConfigFaults([f"{what}; {EXAMPLE} {places[0]}"])


def load(path: Path) -> Config:
    """The config in ``path``, checked, its paths absolute. Raises ConfigFaults with every fault of the file."""
    raw = _read(path)
    shown = _shown(path)
    try:
        root = tree.compose(raw)
    except tree.SyntaxFault as fault:
        raise ConfigFaults([_line(shown, Fault(fault.place, "syntax", str(fault)))]) from None
    if root is None:
        raise ConfigFaults([f"{shown}:1:1 config: the file is empty; {EXAMPLE} {shown}"])
    reader = Reader(path.absolute().parent)
    config = reader.whole(root)
    faults = sorted(dict.fromkeys(reader.faults), key=lambda fault: fault.place)
    if faults:
        raise ConfigFaults([_line(shown, fault) for fault in faults])
    return config


def state_path(config: Config) -> Path | None:
    """The SQLite file of the node's state: that of ``state.url``, else ``state.db`` in ``state.directory``. None when
    the state is in PostgreSQL."""
    if not config.state.url:
        return Path(config.state.directory) / "state.db"
    return None if urls.is_postgresql(config.state.url) else values.sqlite_path(config.state.url)


def _line(shown: str, fault: Fault) -> str:
    return f"{shown}:{fault.place.line}:{fault.place.column} {fault.key}: {fault.what}"


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _read(path: Path) -> bytes:
    shown = _shown(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigFaults([f"{shown}: no such config file; {EXAMPLE} {shown}"]) from None
    except IsADirectoryError:
        raise ConfigFaults([f"{shown}: a folder, not a config file; name the file in it"]) from None
    except OSError as fault:
        raise ConfigFaults([f"{shown}: cannot be read: {fault.strerror}"]) from None
    if len(raw) > LARGEST:
        raise ConfigFaults([f"{shown}: larger than {LARGEST >> 20} MiB; is this the config file?"])
    return raw
