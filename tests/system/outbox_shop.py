"""An application with an outbox in a real PostgreSQL, and the node that collects from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from local_site import LocalSite
from postgres_server import PostgresServer
from site_of_sshd import Row
from stored_requests import stored

CONF = Path(__file__).resolve().parents[2] / "conf"
TARGETS = {"images": {"servers": ["dest1"], "root": "/images", "protect": ["*.keep"]}}
VARIABLE = "SHOP_DATABASE"


class Shop:
    """An application with an outbox of its own, and the node that collects from it."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.address = postgres.fresh_database()
        self.site = LocalSite(folder)
        self.configure()
        self.run((CONF / "bulk-delete-outbox.sql").read_text())

    def configure(self, **keys: Any) -> None:
        outboxes = {"shop": {"dsn": VARIABLE, **keys}}
        self.site.configure(bulk_delete={"targets": TARGETS, "max_resources": 50_000, "outboxes": outboxes})

    def run(self, *statements: str) -> None:
        """Runs statements as the application does."""
        with self.connected() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.address) as connection:
            yield connection

    def ask(self, key: str, names: list[str], target: str = "images") -> None:
        insert = "INSERT INTO bulk_delete_outbox (request, target, resources) VALUES (%s, %s, %s)"
        with self.connected() as connection:
            connection.execute(insert, (key, target, names))

    def rows(self) -> list[tuple[str, bool, str | None]]:
        """Key, whether it was taken, and why it was refused."""
        query = "SELECT request, taken IS NOT NULL, error FROM bulk_delete_outbox ORDER BY request"
        with self.connected() as connection:
            return connection.execute(query).fetchall()

    def collect(self, expect: int = 0) -> list[Row]:
        return self.site.run("bulk-delete", "collect", "--source", "shop", expect=expect)

    def files(self) -> dict[str, list[bytes]]:
        """The names of each stored request."""
        return {request.key: request.names for request in stored(self.site)}
