"""What every test gets: no way to the user's own files, the option for long sweeps, and servers that start slowly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from swift_server import SwiftServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --sweep."""
    parser.addoption("--sweep", action="store_true", help="also run the long randomised sweeps")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves sweeps out unless asked for; a sweep that is left out is not collected, so nothing counts as skipped."""
    if config.getoption("--sweep"):
        return
    left_out = [item for item in items if item.get_closest_marker("sweep")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("sweep")]


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty home, no SSH agent and no config of the user's."""
    home: Path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("SSH_AUTH_SOCK", "CFTOOLS_CONFIG", "NO_COLOR", "XDG_CONFIG_HOME", "PGPASSWORD", "PGSERVICE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres(_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The PostgreSQL of this worker process, running. A test that ends it need not start it again; the databases it
    asked for are emptied after it."""
    yield _postgres
    if not _postgres.running():
        _postgres.start()
    _postgres.recycle()


@pytest.fixture(scope="session")
def _swift() -> Iterator[SwiftServer]:
    with SwiftServer() as server:
        yield server


@pytest.fixture
def swift(_swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> SwiftServer:
    """The object storage of this worker process, healthy, and its login in the environment."""
    _swift.fail({})
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in _swift.environment.items():
        monkeypatch.setenv(name, value)
    return _swift
