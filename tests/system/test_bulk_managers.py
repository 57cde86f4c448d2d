"""Several managers drain one node: the state in PostgreSQL, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from postgres_server import PostgresServer
from site_of_sshd import MakeSite, Site
from swift_server import SwiftServer

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("swift")]

NAMES = [f"sub/{number:03d}.jpg" for number in range(150)]


def managers(site: Site, count: int) -> list[Path]:
    """Configs of as many managers, each with a folder of its own."""
    text = (site.folder / "cftools.yaml").read_text()
    made = []
    for number in range(count):
        config = json.loads(text)
        config["state"]["directory"] = f"state{number}"
        made.append(site.folder / f"manager{number}.yaml")
        made[-1].write_text(json.dumps(config))
    return made


def drain(config: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cftools", "--config", str(config), "bulk-delete", "drain", "--for", "90s"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_managers_share_the_work_and_one_takes_over_what_a_killed_one_had(
    make_site: MakeSite, postgres: PostgresServer, swift: SwiftServer
) -> None:
    url, bucket = postgres.fresh_database(), swift.fresh_bucket()
    site = make_site(destinations=2)
    targets = {
        **{name: {"servers": [name], "root": str(site.root(name))} for name in site.destinations},
        "objects": {"url": f"s3://{bucket}", "endpoint": swift.endpoint},
    }
    site.configure(
        state={"url": url},
        ssh={"response_timeout": "2s", "connect_timeout": "2s"},
        bulk_delete={"partition": 3, "retry_delay": "0.2s", "targets": targets},
    )
    site.start()
    for name in NAMES:
        site.put(name, *site.destinations)
    site.put("sub/bystander.jpg", *site.destinations)
    swift.fill(bucket, [*NAMES, "sub/bystander.jpg"])
    text = "".join(f"{name}\n" for name in NAMES).encode()
    for target in targets:
        site.run("bulk-delete", "submit", "--request", f"of {target}", "--target", target, stdin=text)
    environment = {**os.environ, **swift.environment}
    with ExitStack() as stack, psycopg.connect(url, autocommit=True) as state:
        running = []
        for config in managers(site, 3):
            running.append(stack.enter_context(drain(config, environment)))
            stack.callback(running[-1].kill)
        late = time.monotonic() + 100

        def count(query: str) -> int:
            row = state.execute(query.encode()).fetchone()
            assert row is not None
            assert time.monotonic() < late
            return int(row[0])

        while count("SELECT count(*) FROM journal") < 20:
            time.sleep(0.01)
        busy = count("SELECT r.pid FROM run r JOIN journal j ON j.run = r.id ORDER BY j.id DESC LIMIT 1")
        next(process for process in running if process.pid == busy).kill()
        while count("SELECT count(*) FROM bulk_request WHERE state = 'open'"):
            time.sleep(0.05)
        for process in running:
            process.terminate()
        talk = [process.communicate(timeout=20)[1].decode() for process in running]
        assert all("Traceback" not in said for said in talk), talk
        told = state.execute("SELECT server, name, state, run FROM journal").fetchall()
    done = Counter((server, name) for server, name, kind, _ in told if kind == "done")
    # Object storage does not tell whether an object was there: what the killed one may have deleted is asked again.
    assert {one for one, times in done.items() if times > 1 and "://" not in one[0]} == set()
    assert len({run for *_, run in told}) >= 2
    assert all(site.holders(name) == [] for name in NAMES)
    assert site.holders("sub/bystander.jpg") == [*site.destinations]
    assert swift.keys(bucket) == ["sub/bystander.jpg"]
    counted = {(server, name) for server, name, kind, _ in told if kind in ("done", "already")}
    assert len(counted) == len(NAMES) * len(targets)
