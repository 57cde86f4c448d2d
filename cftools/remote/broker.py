"""The RabbitMQ queue of bulk-delete requests: connected, declared, published to with confirms, taken from.

The queue is a quorum queue, so that a confirmed message is on the disks of most nodes of the broker. What was delivered
too often, or is rejected, goes through the exchange of dead letters into the queue of the same name, at least once: the
broker lets go of it only when it stands there. How often a message is delivered is counted by the broker.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from cftools.config import schema
from cftools.model.errors import CftoolsError, Unreachable, UsageFault

try:
    import pika  # type: ignore[import-untyped]
    from pika import exceptions
except ImportError as missing:
    raise UsageFault("RabbitMQ needs pika; install it: pip install 'cftools[rabbitmq]'") from missing

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

logging.getLogger("pika").setLevel(logging.CRITICAL + 1)  # its faults come back as exceptions; nothing to stderr

LARGEST = 16 * 1024**2 - 64 * 1024  # bytes of a body: RabbitMQ 4 takes 16 MiB unless told otherwise
HEARTBEAT = 30  # seconds; a broker that is silent for longer is gone
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 3.0
BLOCKED_SECONDS = 30.0  # how long a broker may take no messages, for want of memory or disk space
_LONGEST_ID = 255  # bytes of a message id
ACCESS_REFUSED, PRECONDITION_FAILED, NOT_ALLOWED = 403, 406, 530  # of AMQP


class Place(NamedTuple):
    """A queue of a broker. ``shown`` names the broker in messages, without its password."""

    parameters: pika.URLParameters
    shown: str
    queue: str
    dead_letters: str
    deliveries: int
    prefetch: int


class Message(NamedTuple):
    """A message as it was delivered. ``tag`` stands for it on its connection; ``delivery`` counts its deliveries, this
    one too; ``key``: its id, which the application may have left out."""

    tag: int
    delivery: int
    key: str
    body: bytes


class BrokerFault(Unreachable):
    """The broker cannot be reached, or does not do what it is asked. ``lasting``: trying again will not help."""

    def __init__(self, shown: str, what: str, *, lasting: bool = False) -> None:
        self.lasting = lasting
        super().__init__(f"broker {shown}: {what}")


def place(broker: schema.Broker | None, environment: Mapping[str, str]) -> Place:
    """The queue the config names. Raises UsageFault when it names none, or when its address is not to be had."""
    if broker is None:
        raise UsageFault("no broker is configured; add `broker: {}` to bulk_delete in the config")
    address = environment.get(broker.url, "")
    usual = "amqp://user:password@host:port/vhost"
    if not address:
        raise UsageFault(f"bulk_delete.broker: the environment variable {broker.url} is not set; set it to {usual}")
    try:
        if not address.startswith(("amqp://", "amqps://")):
            raise ValueError
        parameters = pika.URLParameters(address)
    except Exception:  # whatever it stumbled over may be the password
        hint = "with %2F for a / in a name or password, %40 for an @ and so on"
        raise UsageFault(f"{broker.url} holds no address of a broker; set it to {usual}, {hint}") from None
    if parameters.heartbeat is None:
        parameters.heartbeat = HEARTBEAT
    if parameters.blocked_connection_timeout is None:
        parameters.blocked_connection_timeout = BLOCKED_SECONDS
    parameters.socket_timeout = min(parameters.socket_timeout or CONNECT_SECONDS, CONNECT_SECONDS)
    parameters.client_properties = {"connection_name": f"cftools on {socket.gethostname()}"}
    shown = f"{parameters.host}:{parameters.port}"
    if parameters.virtual_host != "/":
        shown += f"/{parameters.virtual_host}"
    return Place(parameters, shown, broker.queue, broker.dead_letters, broker.deliveries, broker.prefetch)


class Broker:
    """A connection to the broker, with the queue declared; a context manager that closes it. All methods raise
    BrokerFault; after that this connection is of no more use. What was taken in and not settled when the connection
    ends, the broker delivers again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inbox: deque[Message] = deque()
        self._consumer = ""
        self._lost: BrokerFault | None = None
        self._closed = False
        self._connection: Any = None
        with self._faults("cannot be reached"):
            self._connection = pika.BlockingConnection(place.parameters)
        try:
            self._declare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, failed: Sequence[Message] = ()) -> None:
        """Puts back the deliveries that failed, gives back what was never looked at, and ends the connection. Never
        raises, and waits for a broker that hangs no longer than CLOSE_SECONDS; that one gives all back to itself."""
        if not self._closed:
            self._closed = True
            ending = threading.Thread(target=self._end, args=(failed,), daemon=True)
            ending.start()
            ending.join(CLOSE_SECONDS)

    def publish(self, key: str, body: bytes) -> None:
        """Returns when the broker has the message for certain."""
        with self._faults("it is not known whether the message arrived; send it again, which harms nothing"):
            try:
                self._publish(key, body)
            except exceptions.UnroutableError:
                what = f"queue {self._place.queue} was deleted just now; nothing is stored, try again"
                raise BrokerFault(self._place.shown, what) from None
            except exceptions.NackError:
                what = f"queue {self._place.queue} did not take the message; nothing is stored, try again"
                raise BrokerFault(self._place.shown, what) from None

    def consume(self, messages: int) -> None:
        """From now on up to ``messages`` are taken in at once, beside those that are not settled yet."""
        with self._faults("the connection was lost"):
            if self._consumer:
                self._channel.basic_cancel(self._consumer)
            self._channel.basic_qos(prefetch_count=messages)
            self._consumer = self._channel.basic_consume(self._place.queue, self._take_in)

    def pause(self) -> None:
        """Takes nothing more in; what was, is still to be had from `take`."""
        with self._faults("the connection was lost"):
            if self._consumer:
                self._channel.basic_cancel(self._consumer)
                self._consumer = ""

    def take(self, seconds: float) -> Message | None:
        """The next message; None when there is none for so long."""
        with self._faults("the connection was lost"):
            # Also when some are here: so the broker hears from us between two of them.
            self._connection.process_data_events(0 if self._inbox else seconds)
            if not self._channel.consumer_tags and self._consumer:
                raise BrokerFault(self._place.shown, f"queue {self._place.queue} went away")
        return self._inbox.popleft() if self._inbox else None

    def settle(self, message: Message) -> None:
        """It is done with."""
        with self._faults("the connection was lost"):
            self._channel.basic_ack(message.tag)

    def put_back(self, message: Message) -> None:
        """Back into the queue, as a delivery that failed."""
        with self._faults("the connection was lost"):
            # RabbitMQ counts a rejected delivery from 3.8 on, one that is taken back by basic_nack not from 4.3 on.
            self._channel.basic_reject(message.tag, requeue=True)

    def bury(self, message: Message) -> None:
        """To the dead letters."""
        with self._faults("the connection was lost"):
            self._channel.basic_reject(message.tag, requeue=False)

    def put_back_uncounted(self, message: Message) -> None:
        """Back into the queue, at its end, as if never delivered: a copy of it, which is new to the broker."""
        self.publish(message.key, message.body)
        self.settle(message)

    def waiting(self) -> int:
        """How many messages the queue holds that are not taken in by anybody."""
        with self._faults("the connection was lost"):
            return int(self._channel.queue_declare(self._place.queue, passive=True).method.message_count)

    def _end(self, failed: Sequence[Message]) -> None:
        with suppress(Exception):
            self.pause()  # or it would all come in again
            for message in failed:
                self.put_back(message)
            for message in self._inbox:
                self._channel.basic_nack(message.tag, requeue=True)
        with suppress(Exception):
            self._connection.close()

    def _publish(self, key: str, body: bytes) -> None:
        identity = key if len(key.encode()) <= _LONGEST_ID else None
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=identity)
        self._channel.basic_publish("", self._place.queue, body, properties, mandatory=True)

    def _declare(self) -> None:
        queue, dead, count = self._place.queue, self._place.dead_letters, self._place.deliveries
        with self._faults("the connection was lost"):
            try:
                self._channel = self._connection.channel()
                self._channel.exchange_declare(dead, "fanout", durable=True)
                self._channel.queue_declare(dead, durable=True, arguments={"x-queue-type": "quorum"})
                self._channel.queue_bind(dead, dead)
                self._channel.queue_declare(queue, durable=True, arguments=_arguments(dead, count))
                self._channel.confirm_delivery()
            except exceptions.ChannelClosedByBroker as fault:
                raise self._misfit(fault) from None

    def _misfit(self, fault: exceptions.ChannelClosedByBroker) -> BrokerFault:
        """Why the queues cannot be declared."""
        said = fault.reply_text
        if fault.reply_code == PRECONDITION_FAILED:
            what = f"a queue or exchange stands there with other arguments ({said})"
            mend = "delete it when it is empty, or name others in bulk_delete.broker"
        elif fault.reply_code == ACCESS_REFUSED:
            what, mend = f"the account may not use the queues ({said})", "give it leave to configure, write and read"
        else:
            return BrokerFault(self._place.shown, f"the queues cannot be declared ({said})")
        return BrokerFault(self._place.shown, f"{what}; {mend}", lasting=True)

    def _take_in(self, _: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        headers = properties.headers or {}
        # A message that came back from the dead letters brings the number of its former life along.
        before = headers.get("x-delivery-count", 1) if method.redelivered else 0
        delivery = 1 + before if isinstance(before, int) else 2
        self._inbox.append(Message(method.delivery_tag, delivery, properties.message_id or "", body))

    @contextmanager
    def _faults(self, what: str) -> Iterator[None]:
        """Makes a BrokerFault of all that goes wrong inside; the first one is raised again by whatever comes later."""
        if self._lost:
            raise self._lost
        try:
            yield
        except CftoolsError as fault:
            self._lost = fault if isinstance(fault, BrokerFault) else None
            raise
        except Exception as fault:
            # On a connection that has just ended pika stumbles in many ways.
            is_open = self._connection is not None and self._connection.is_open
            if is_open and not isinstance(fault, exceptions.AMQPError | OSError):
                raise
            self._lost = self._fault(what, fault)
            raise self._lost from None

    def _fault(self, what: str, fault: Exception) -> BrokerFault:
        shown, said = self._place.shown, _said(fault)
        if isinstance(fault, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
            user = getattr(self._place.parameters.credentials, "username", "")
            what = f"it refuses the login of {user}; see to the password in its address"
            return BrokerFault(shown, what, lasting=True)
        denied = getattr(fault, "reply_code", 0) in (ACCESS_REFUSED, NOT_ALLOWED)
        if denied or isinstance(fault, exceptions.ProbableAccessDeniedError):
            return BrokerFault(shown, f"it refuses access: {said}", lasting=True)
        if isinstance(fault, exceptions.IncompatibleProtocolError):
            said = "it does not speak AMQP 0.9.1"
        return BrokerFault(shown, f"{what}: {said}")


def _arguments(dead_letters: str, deliveries: int) -> dict[str, Any]:
    """Arguments of the queue. `at-least-once` needs `reject-publish`, which refuses nothing: there is no limit."""
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": dead_letters,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": deliveries - 1,  # those after the first
    }


def _said(fault: BaseException) -> str:
    """What happened, in the fewest words: pika wraps one error into another."""
    if isinstance(fault, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{fault.reply_text} ({fault.reply_code})"
    if isinstance(fault, exceptions.ConnectionBlockedTimeout):
        return "it takes no messages, for want of memory or disk space"
    inner = [*fault.args, getattr(fault, "exception", None)]
    for one in inner:
        if isinstance(one, BaseException):
            return _said(one)
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    said = " ".join(str(part) for part in fault.args if isinstance(part, str)) or str(fault)
    return " ".join(said.split()) or type(fault).__name__
