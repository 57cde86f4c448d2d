"""Sites for the system tests, each on loopback addresses of its own, and servers that start slowly."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from broker_server import BrokerServer
from site_of_sshd import MakeSite, Site

_numbers = itertools.count(1)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Makes sites; their servers are killed at the end of the test."""
    with ExitStack() as stack:

        def make(**shape: int) -> Site:
            worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
            number = next(_numbers)
            site = Site(tmp_path / f"site{number}", f"127.{60 + worker}.{number % 250}", **shape)
            stack.enter_context(site.servers)
            return site

        yield make


@pytest.fixture(scope="session")
def _broker() -> Iterator[BrokerServer]:
    with BrokerServer() as server:
        yield server


@pytest.fixture
def broker(_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The RabbitMQ of this worker process, running. Tests that use it are of the xdist group "broker", so that it is
    started once; one that ends it need not start it again."""
    yield _broker
    if not _broker.running():
        _broker.start()
