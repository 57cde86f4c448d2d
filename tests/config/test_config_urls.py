"""URLs of PostgreSQL: which are taken, and that none of what is said about them shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from cftools.config.load import load, state_path
from cftools.config.urls import postgresql, shown_url
from cftools.model.errors import ConfigFaults

CONFIG = """
node: test
inputs: {hitcount_history: h, grade_info: g}
sources: [{name: src1, address: 10.0.0.1, roots: [/data]}]
destinations: [{name: dst1, address: 10.0.0.2, root: /data}]
"""
TAKEN = {
    "postgresql://host/name": {"host": "host", "dbname": "name"},
    "POSTGRES://host/name": {"host": "host", "dbname": "name"},
    "postgresql:///name": {"dbname": "name"},
    "postgresql:///name?host=/var/run/postgresql": {"dbname": "name", "host": "/var/run/postgresql"},
    "postgresql://u@10.0.0.1:5433/name": {"user": "u", "host": "10.0.0.1", "port": "5433", "dbname": "name"},
    "postgresql://u@[fd00::1]:5433/name": {"user": "u", "host": "fd00::1", "port": "5433", "dbname": "name"},
    "postgresql://u@h1:1,h2:2/n": {"user": "u", "host": "h1,h2", "port": "1,2", "dbname": "n"},
    "postgresql://u:p%40%2F%3A@h/n?sslmode=require&connect_timeout=3": {
        "user": "u",
        "password": "p@/:",
        "host": "h",
        "dbname": "n",
        "sslmode": "require",
        "connect_timeout": "3",
    },
}
LEAKING = [
    "postgresql://u:geheim@host@h/n",
    "postgresql://u:ge/heim@h/n",
    "postgresql://u:geheim@h",
    "postgresql://u:geheim%@h/n",
    "postgresql://u:ge heim@h/n",
    "postgresql://u:geheim@h:port/n",
    "postgresql://u:geheim@h/n?password",
    "postgresql:u:geheim@h/n",
    "postgresql://u:ge\x01heim@h/n",
]


@pytest.mark.parametrize("url", TAKEN)
def test_libpq_understands_what_is_taken_as_it_is_meant(url: str) -> None:
    assert conninfo_to_dict(postgresql(url)) == TAKEN[url]


def test_a_config_with_its_state_in_postgresql_has_no_state_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG + "state: {url: 'postgres://u@h/n'}\n")
    config = load(tmp_path / "c.yaml")
    assert (config.state.url, state_path(config)) == ("postgres://u@h/n", None)


@pytest.mark.parametrize("url", LEAKING)
def test_a_fault_of_a_url_does_not_show_its_password(tmp_path: Path, url: str) -> None:
    (tmp_path / "c.yaml").write_text(f'{CONFIG}state: {{url: "{url}"}}\n'.replace("\x01", "\\x01"))
    with pytest.raises(ConfigFaults, match=r"6:14 state\.url: ") as caught:
        load(tmp_path / "c.yaml")
    assert "heim" not in str(caught.value)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:geheim@h1:1,h2/n?password=geheim", "postgresql://u@h1:1,h2/n"),
        ("postgresql:///n?password=geheim", "postgresql:///n"),
        ("postgresql://:geheim@h/n", "postgresql://h/n"),
        ("no url at all geheim", "postgresql:"),
    ],
)
def test_a_shown_url_is_without_password_and_parameters(url: str, shown: str) -> None:
    assert shown_url(url) == shown
