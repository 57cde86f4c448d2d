"""OpenStack Swift in one process, speaking S3: what `swift_server.SwiftServer` runs. Not imported by the tests.

    python swift_process.py FOLDER PORT

Proxy, account, container and object server share one event loop; objects are kept in memory, account and containers in
SQLite below FOLDER. The proxy listens on PORT, the others on ports that the kernel picks. Each file whose name stands
in FOLDER/faults, as ``container/name=status`` lines, cannot be deleted: the object server answers with that status.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import eventlet  # type: ignore[import-untyped,import-not-found,unused-ignore]
from swift.common import utils  # type: ignore[import-untyped,import-not-found,unused-ignore]

if __name__ == "__main__":
    utils.monkey_patch()

from eventlet import wsgi  # type: ignore[import-untyped,import-not-found,unused-ignore]
from swift.common.http_protocol import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    SwiftHttpProtocol,
)
from swift.common.ring import RingBuilder  # type: ignore[import-untyped,import-not-found,unused-ignore]
from swift.common.wsgi import loadapp  # type: ignore[import-untyped,import-not-found,unused-ignore]

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
HOST = "127.0.0.1"
BACKENDS = {"account": "account", "container": "container", "object": "mem_object"}
PIPELINE = "catch_errors listing_formats s3api tempauth proxy-server"
FILTERS = {
    "s3api": "s3_acl = false\nlocation = us-east-1\nallow_multipart_uploads = false\n",
    "tempauth": "user_{account}_{user} = {password} .admin\nuser_{account}_reader = {password}\n",
    "catch_errors": "",
    "listing_formats": "",
}
ACCOUNT, USER, PASSWORD = "test", "tester", "testing"


def backend(folder: Path, role: str, program: str, port: int) -> str:
    """Writes the config of an account, container or object server, and its ring; returns the config's path."""
    builder = RingBuilder(0, 1, 0)
    builder.add_dev(
        {
            "region": 1,
            "zone": 1,
            "ip": HOST,
            "port": port,
            "device": "disk",
            "weight": 1.0,
            "replication_ip": HOST,
            "replication_port": port,
        }
    )
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{role}.ring.gz"))
    path = folder / f"{role}.conf"
    path.write_text(
        f"[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}/devices\nmount_check = false\nfallocate_reserve = 0\n"
        "log_requests = false\nlog_level = CRITICAL\n"
        f"[app:main]\nuse = egg:swift#{program}\n"
    )
    return str(path)


def proxy(folder: Path) -> str:
    """Writes the config of the proxy; returns its path."""
    values = {"account": ACCOUNT, "user": USER, "password": PASSWORD}
    text = f"[DEFAULT]\nswift_dir = {folder}\nlog_level = CRITICAL\n[pipeline:main]\npipeline = {PIPELINE}\n"
    for name, keys in FILTERS.items():
        text += f"[filter:{name}]\nuse = egg:swift#{name}\n{keys.format(**values)}"
    text += "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
    text += "error_suppression_limit = 1000000\n"  # a disk that fails now and then is not given up
    path = folder / "proxy.conf"
    path.write_text(text)
    return str(path)


def faulty(application: Application, faults: Path) -> Application:
    """An object server that cannot delete the files that ``faults`` names."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] == "DELETE" and faults.exists():
            path = environment["PATH_INFO"].encode("latin-1").decode().split("/", 4)[-1]
            for line in faults.read_text().splitlines():
                name, _, status = line.rpartition("=")
                if name == path:
                    start(f"{status} Fault", [("Content-Length", "0")])
                    return [b""]
        return application(environment, start)

    return answer


def main(folder: Path, port: int) -> None:
    """Serves until it is killed; says `ready` and the ports of the others when it listens."""
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = cftools\n")
    utils.set_swift_dir(str(folder))
    pool = eventlet.GreenPool()

    def serve(socket: Any, application: Application) -> None:
        quiet = utils.NullLogger()
        pool.spawn(
            wsgi.server, socket, application, quiet, protocol=SwiftHttpProtocol, capitalize_response_headers=False
        )

    ports = []
    for role, program in BACKENDS.items():
        socket = eventlet.listen((HOST, 0))
        ports.append(socket.getsockname()[1])
        application = loadapp(backend(folder, role, program, ports[-1]))
        serve(socket, faulty(application, folder / "faults") if role == "object" else application)
    serve(eventlet.listen((HOST, port)), loadapp(proxy(folder), allow_modify_pipeline=False))
    print("ready", *ports, flush=True)
    pool.waitall()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
