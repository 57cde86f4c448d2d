"""A private object storage for tests: OpenStack Swift speaking S3 on loopback, and a plain client to look behind it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as Xml
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from urllib.parse import quote

from cftools.lab.servers import free_port

HOST = "127.0.0.1"
USER, PASSWORD = "test:tester", "testing"
READER = "test:reader"  # may log in with the same password, and do nothing
ACCOUNT = "AUTH_test"
START_SECONDS = 30.0
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class SwiftServer:
    """A storage below ``directory``, or below a new folder; entering the block starts it, leaving it removes it."""

    def __init__(self, directory: Path | None = None) -> None:
        self.folder = directory or Path(mkdtemp(prefix="cftools-swift-"))
        self.port = free_port([HOST])
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SwiftServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        program = Path(__file__).with_name("swift_process.py")
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                # Its own warnings are no business of the tests. It ends when this process does.
                [sys.executable, "-W", "ignore", str(program), str(self.folder), str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout
        words = self._process.stdout.readline().split()
        assert words[:1] == [b"ready"], (self.folder / "log").read_text()[-2000:]
        _, self._container_port, self._object_port = map(int, words[1:])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def endpoint(self) -> str:
        """What `endpoint` in the config of a target says."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which a program logs in."""
        return {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": "us-east-1"}

    def fresh_bucket(self) -> str:
        """Makes an empty bucket; returns its name."""
        bucket = f"bucket-{next(self._numbers)}"
        self._ask("PUT", f"/{bucket}", b"")
        return bucket

    def put(self, bucket: str, key: str, content: bytes = b"content") -> None:
        """Stores one file under exactly this key."""
        self._ask("PUT", f"/{bucket}/{quote(key, safe='/~')}", content)

    def fill(self, bucket: str, keys: Iterable[str]) -> None:
        """Stores a small file under each key, past the proxy, which takes 30 ms for one."""
        headers = {
            "Content-Type": "text/plain",
            "X-Container-Host": f"{HOST}:{self._container_port}",
            "X-Container-Partition": "0",
            "X-Container-Device": "disk",
        }
        connection = http.client.HTTPConnection(HOST, self._object_port, timeout=START_SECONDS)
        for key in keys:
            path = f"/disk/0/{ACCOUNT}/{bucket}/{quote(key, safe='/~')}"
            connection.request("PUT", path, b"x", headers | {"X-Timestamp": f"{time.time():.5f}"})
            reply = connection.getresponse()
            assert reply.status == 201, reply.read()
            reply.read()
        connection.close()

    def keys(self, bucket: str) -> list[str]:
        """Every key of a bucket, as the server has it."""
        found: list[str] = []
        while True:
            after = f"?marker={quote(found[-1], safe='')}" if found else ""
            listing = Xml.fromstring(self._ask("GET", f"/{bucket}{after}", b""))
            found += [key.text or "" for key in listing.iter(f"{NAMESPACE}Key")]
            if listing.findtext(f"{NAMESPACE}IsTruncated") != "true":
                return found

    def fail(self, faults: Mapping[str, int]) -> None:
        """Lets the deletion of each ``bucket/key`` fail in the storage with that HTTP status, and of no others."""
        new = self.folder / "faults.new"
        new.write_text("".join(f"{place}={status}\n" for place, status in faults.items()))
        new.rename(self.folder / "faults")

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        """One request, signed as AWS did in its first years: few words, and nothing that changes a key."""
        date = formatdate(usegmt=True)
        text = f"{method}\n\n\n{date}\n{path.partition('?')[0]}"
        signature = base64.b64encode(hmac.new(PASSWORD.encode(), text.encode(), hashlib.sha1).digest()).decode()
        headers = {"Date": date, "Authorization": f"AWS {USER}:{signature}", "Content-Length": str(len(body))}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            answer = reply.read()
        finally:
            connection.close()
        assert reply.status in (200, 204), f"{method} {path}: {reply.status} {answer.decode()}"
        return answer
