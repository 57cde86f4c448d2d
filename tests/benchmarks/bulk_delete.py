"""bulk-delete drain against `xargs -0 rm` by plain ssh, and against paramiko's SFTP: whole processes, in turn.

    python tests/benchmarks/bulk_delete.py --files 100000

The files lie on four real sshd's on this machine, as many on each. `xargs` is started on the four side by side and
deletes its list in one go; SFTP removes one file after the other, on --sftp files, and its time is scaled to all of
them. The agreement: at least 20 times as fast as SFTP, and within 2 times of `xargs`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "system"))

import paramiko  # noqa: E402
from site_of_sshd import Site  # noqa: E402

from cftools.lab.servers import own_name  # noqa: E402

SERVERS = 4


def fill(site: Site, names: Sequence[str]) -> None:
    """Puts an empty file of each name on every server."""
    for server in site.destinations:
        root = site.root(server)
        for folder in {os.path.dirname(name) for name in names}:  # noqa: PTH120
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))
    os.sync()


def left(site: Site) -> int:
    """How many files stand on all servers."""
    return sum(len(files) for server in site.destinations for _, _, files in os.walk(site.root(server)))


def by_xargs(site: Site, names: Sequence[str]) -> None:
    """One ssh a server, side by side, each with the list as its input."""
    listed = b"".join(name.encode() + b"\0" for name in names)
    keys = site.folder / "keys"
    started = []
    for server, address in site.destinations.items():
        command = ["ssh", "-F", "none", "-p", str(site.port), "-i", str(keys / "id_ed25519")]
        command += ["-o", f"UserKnownHostsFile={keys / 'known_hosts'}", "-o", "BatchMode=yes", address]
        command += [f"cd {site.root(server)} && xargs -0 rm -f --"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(listed)
        process.stdin.close()
        started.append(process)
    if any(process.wait() for process in started):
        raise SystemExit("ssh failed")


def by_sftp(site: Site, names: Sequence[str]) -> None:
    """One connection a server, one file after the other."""
    for server, address in site.destinations.items():
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(site.folder / "keys" / "known_hosts"))
            key = str(site.folder / "keys" / "id_ed25519")
            client.connect(address, site.port, own_name(), key_filename=key, look_for_keys=False, allow_agent=False)
            sftp = client.open_sftp()
            for name in names:
                sftp.remove(str(site.root(server) / name))


def by_drain(site: Site) -> None:
    """The whole command, with the request submitted before."""
    command = site.command("bulk-delete", "drain")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)


def timed(work: Callable[[], None]) -> float:
    """Seconds of the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(site: Site, files: int, sftp_files: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, for all files."""
    names = [f"album-{number // 5000:03d}/photo-{number:08d}.jpg" for number in range(files // SERVERS)]
    few = names[: max(1, sftp_files // SERVERS)]
    runs: dict[str, list[float]] = {"sftp": [], "xargs": [], "drain": []}
    for turn in range(rounds):
        fill(site, few)
        runs["sftp"].append(timed(lambda: by_sftp(site, few)) * len(names) / len(few))
        fill(site, names)
        runs["xargs"].append(timed(lambda: by_xargs(site, names)))
        fill(site, names)
        for server in site.destinations:
            request = ("bulk-delete", "submit", "--request", f"album-{turn}-{server}", "--target", server)
            site.run(*request, stdin="".join(f"{name}\n" for name in names).encode())
        runs["drain"].append(timed(lambda: by_drain(site)))
        if left(site):
            raise SystemExit(f"{left(site)} files are left")
    return runs


def main() -> None:
    """Command line: how many files, how many rounds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=100_000)
    options.add_argument("--sftp", type=int, default=4_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--partition", type=int, help="default: as the config's default")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), "127.59.7", destinations=SERVERS)
        with site.servers:
            site.start(*site.destinations)
            keys = {} if given.partition is None else {"partition": given.partition}
            # The servers share this machine's disk, so each has a folder, and a target, of its own.
            targets = {server: {"servers": [server], "root": str(site.root(server))} for server in site.destinations}
            site.configure(bulk_delete={**keys, "targets": targets})
            runs = measure(site, given.files, given.sftp, given.rounds)
    middle = {way: statistics.median(seconds) for way, seconds in runs.items()}
    print(f"{'':8}{'seconds':>9}{'files/s':>10}")
    for way, seconds in middle.items():
        print(f"{way:8}{seconds:9.2f}{given.files / seconds:10.0f}")
    against_sftp, against_xargs = middle["sftp"] / middle["drain"], middle["drain"] / middle["xargs"]
    print(f"drain: {against_sftp:.1f} times as fast as SFTP, {against_xargs:.2f} times as long as xargs")


if __name__ == "__main__":
    main()
