"""Keys and loopback addresses of the remote tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest

from cftools.lab.keys import Keys

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
