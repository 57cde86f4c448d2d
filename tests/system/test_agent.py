"""Pulls that log in to the source with the manager's SSH agent, where the destination has no key of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from site_of_sshd import MakeSite, Site, outcomes

pytestmark = pytest.mark.system


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A running ssh-agent without keys."""
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    values = dict(part.split("=", 1) for part in said.replace("\n", "").split(";") if part.startswith("SSH_"))
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield
    subprocess.run(["ssh-agent", "-k"], capture_output=True, check=True)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("forwarded", [True, False])
def test_a_pull_may_use_the_managers_agent_only_when_the_config_says_so(make_site: MakeSite, forwarded: bool) -> None:
    site: Site = make_site(destinations=1)
    subprocess.run(["ssh-add", "-q", str(site.keys.identity)], check=True, env=os.environ.copy())
    site.configure(distribute={"via": "pull", "forward_agent": forwarded, "pull_identity": ""})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    rows = site.run("distribute", expect=0 if forwarded else 1)
    assert outcomes(rows) == [("dest1", "a.mpg", "done" if forwarded else "failed")]
    assert site.holders("a.mpg") == (["src1", "dest1"] if forwarded else ["src1"])
    assert forwarded or "Permission denied" in site.talk
