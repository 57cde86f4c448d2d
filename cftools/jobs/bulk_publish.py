"""`bulk-delete submit --via broker`: a request goes into the RabbitMQ queue, for `receive` to take."""

from __future__ import annotations

import os
import queue
import threading

import msgspec

from cftools.jobs.bulk_accept import Spool
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import InputUnusable
from cftools.model.rows import Request
from cftools.remote.broker import LARGEST, Broker, BrokerFault, Place, place

ANSWER_SECONDS = 60.0  # limit for all of it; a queue that lost most of its nodes confirms nothing, and says nothing
PIECE = 10_000  # names that are written at once


def publish(job: Job, key: str, target: str, spool: Spool) -> Request:
    """Publishes the request whose names were spooled for this key and target; the broker has it for certain when this
    returns. Whether it knows the key does not show before `receive`.

    Raises UsageFault when no broker is configured, InputUnusable when the request is too large for a message,
    Unreachable when the broker does not confirm that it has it; publishing it again is right then.
    """
    where = place(job.config.bulk_delete.broker, os.environ)
    body = body_of(key, target, spool)
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    # In a thread, because nothing ends pika's waiting for a broker that hangs.
    threading.Thread(name="publish", target=_publish, args=(where, key, body, outcome), daemon=True).start()
    try:
        fault = outcome.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        what = f"no answer within {ANSWER_SECONDS:g}s; it is not known whether the message arrived; send it again"
        raise BrokerFault(where.shown, f"{what}, which harms nothing") from None
    if fault:
        raise fault
    return Request(key, target, spool.resources)


def body_of(key: str, target: str, spool: Spool) -> bytes:
    """The message: JSON, names as in rows. Raises InputUnusable when no broker would take it."""
    start = msgspec.json.encode({"request": key, "target": target})[:-1] + b',"resources":['
    body = bytearray(start)
    for block in spool.blocks(PIECE):
        some = msgspec.json.encode(names.text_from_bytes(block).split("\0")[:-1])[1:-1]
        body += b"," if len(body) > len(start) else b""
        body += names.json_from_marks(some)
        if len(body) > LARGEST:
            what = f"{spool.resources:,} files take more than the {LARGEST:,} bytes of a message"
            raise InputUnusable(spool.origin, what, "use --via state, or divide it and give each part a key of its own")
    return bytes(body + b"]}")


def _publish(where: Place, key: str, body: bytes, outcome: queue.SimpleQueue[Exception | None]) -> None:
    try:
        with Broker(where) as broker:
            broker.publish(key, body)
            outcome.put(None)  # before the connection is closed: nothing that happens then matters
    except Exception as fault:
        outcome.put(fault)
