"""Keys and loopback addresses of the remote tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ssh_place import Place

from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.sshd import SshdServers

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def new_address() -> Callable[[], str]:
    """Gives loopback addresses that no other test uses."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])

    def new() -> str:
        number = next(_numbers)
        return f"127.{80 + worker}.{number // 250}.{1 + number % 250}"

    return new


@pytest.fixture(params=["in process", pytest.param("sshd", marks=pytest.mark.system)])
def place(
    request: pytest.FixtureRequest, keys: Keys, new_address: Callable[[], str], tmp_path: Path
) -> Iterator[Place]:
    """A server of each kind, with a gate before it."""
    with ExitStack() as stack:
        sshd = request.param == "sshd"
        servers = stack.enter_context(SshdServers(keys, tmp_path / "sshd")) if sshd else None
        yield Place(servers or stack.enter_context(InProcessServers(keys)), keys, new_address(), stack)
