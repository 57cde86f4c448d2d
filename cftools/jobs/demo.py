"""`demo`: a whole node on loopback, one cycle on it, and what happened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cftools.config.load import load
from cftools.facts.inventory import Inventory
from cftools.jobs import cycle
from cftools.jobs.gather import read_inventory
from cftools.jobs.job import Talk, open_job
from cftools.lab import node as lab
from cftools.lab.inprocess import InProcessServers
from cftools.model.rows import Row


class Story(NamedTuple):
    """What the demo did: what stood where before, the rows of the cycle, what stands where after."""

    node: lab.DemoNode
    before: Inventory
    rows: list[Row]
    after: Inventory


def run(keep: Path | None, say: Callable[[str], None]) -> Story:
    """Builds a node (in ``keep``, or in a folder that goes away), starts its servers and runs one cycle.

    Raises UsageFault when ``keep`` holds something already, Unreachable when loopback addresses cannot be used.
    """
    with _folder(keep) as folder:
        node = lab.build(folder)
        say(f"a node with {len(node.servers)} servers and {len(node.files)} files stands in {folder}")
        with InProcessServers(node.keys()) as servers:
            node.start(servers)
            config = load(node.config)
            with open_job(config, "inventory") as job:
                before = read_inventory(job, None)
            say("cftools cycle --apply")
            with open_job(config, "cycle", talk=Talk(detail=say)) as job:
                rows = list(cycle.run(job, cycle.Options(apply=True)))
            with open_job(config, "inventory") as job:
                after = read_inventory(job, None)
    return Story(node, before, rows, after)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="cftools-demo-") as folder:
        yield Path(folder) / "node"
