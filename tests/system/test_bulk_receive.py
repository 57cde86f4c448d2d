"""`bulk-delete receive` and `submit --via broker` on a real RabbitMQ: what is taken, what goes to the dead letters."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path

import pytest
from broker_bench import PATIENCE, VARIABLE, Bench, request
from broker_server import PASSWORD, BrokerServer
from site_of_sshd import Row, end, kinds

from cftools.model.errors import Unreachable
from cftools.remote.broker import Broker

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("broker"), pytest.mark.timeout(240)]


@pytest.fixture
def bench(tmp_path: Path, broker: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv(VARIABLE, broker.url())
    return Bench(tmp_path, broker)


def keys(rows: list[Row], kind: str = "request") -> list[str]:
    return [row["request"] for row in kinds(rows, kind)]


def test_what_is_submitted_through_the_broker_is_received_and_stored(bench: Bench) -> None:
    names = b"a/b.jpg\n\xffodd \xec\x98\x81\xea\xb8\xb0.jpg\n\xef\x9e\x80\n"
    (row,) = bench.run(
        *("bulk-delete", "submit", "--request", "album 7", "--target", "images", "--via", "broker"), stdin=names
    )
    assert row == {"kind": "request", "request": "album 7", "target": "images", "resources": 3, "duplicate": False}
    assert bench.known() == {}
    rows = bench.receive()
    assert kinds(rows, "request") == [row]
    assert end(rows)["counts"] == {"request": 1, "duplicates": 0, "resources": 3, "refused_request": 0}
    assert bench.known() == {"album 7": ("images", 3)}
    # Its names are the very bytes: submitted straight into the state it is the same request.
    (again,) = bench.run("bulk-delete", "submit", "--request", "album 7", "--target", "images", stdin=names)
    assert again["duplicate"]
    assert bench.talk == ""
    assert bench.waiting(bench.queue) == bench.waiting(bench.dead) == 0


def test_a_message_tells_what_it_is(bench: Bench) -> None:
    words = ("bulk-delete", "submit", "--target", "images", "--via", "broker", "--request")
    bench.run(*words, "k", stdin=b"a\n\xff\n")
    bench.run(*words, "\u00fc" * 200, stdin=b"a\n")
    with bench.channel() as channel:
        _, properties, body = channel.basic_get(bench.queue, auto_ack=True)
        _, without_id, longest = channel.basic_get(bench.queue, auto_ack=True)
    assert body == b'{"request":"k","target":"images","resources":["a","\\udcff"]}'
    assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("application/json", 2, "k")
    assert without_id.message_id is None  # 400 bytes, more than an id may have
    assert json.loads(longest)["request"] == "\u00fc" * 200


def test_the_same_key_again_is_a_duplicate(bench: Bench) -> None:
    bench.send(request("a"), request("a"), request("b"))
    rows = bench.receive()
    assert [(row["request"], row["duplicate"]) for row in kinds(rows, "request")] == [
        ("a", False),
        ("a", True),
        ("b", False),
    ]
    assert end(rows)["counts"]["duplicates"] == 1
    assert bench.known().keys() == {"a", "b"}


def test_an_empty_queue_is_nothing_to_do(bench: Bench) -> None:
    assert [row["kind"] for row in bench.receive()] == ["begin", "end"]
    assert [row["kind"] for row in bench.receive("--for", "1s")] == ["begin", "end"]
    assert bench.talk == ""


POISON: dict[str, tuple[object, str]] = {
    "no JSON": (b"\x80 not json", "not a message like"),
    "no object": ([1, 2], "not a message like"),
    "no resources": ({"request": "x", "target": "images"}, "missing required field `resources`"),
    "resources of another type": (request("x") | {"resources": ["a", 5]}, "Expected `str`, got `int`"),
    "a name that leads out": (request("x") | {"resources": ["a", "../b"]}, "'../b'"),
    "a NUL": (request("x") | {"resources": ["a\0b"]}, "NUL"),
    "a target that is not known": (request("x", target="nowhere"), "no target 'nowhere' in the config"),
    "a key that cannot be": (request(" x"), "blank"),
    "too many files": (request("x", 101), "max_resources"),
    "another request of this key": (request("first", 9), "accepted before with other content"),
}


def test_poison_goes_to_the_dead_letters_after_so_many_runs_and_holds_up_nothing(bench: Bench) -> None:
    bench.set(deliveries=3, prefetch=3)
    bodies = [body for body, _ in POISON.values()]
    bench.send(request("first"), *bodies, request("last"))
    rows = bench.receive(expect=1)
    assert keys(rows) == ["first", "last"]
    refused = [row["reason"] for row in kinds(rows, "refused_request")]
    assert len(refused) == len(bench.talk.splitlines()) == len(POISON)
    for reason, (_, why) in zip(refused, POISON.values(), strict=True):
        assert why in reason
        assert re.search("delivery [12] of 3", reason)  # a broker under load may deliver one again by itself
    assert bench.waiting(bench.queue) == len(POISON)
    assert bench.waiting(bench.dead) == 0

    bench.send(request("later"))
    runs = [bench.receive(expect=1)]
    assert keys(runs[0]) == ["later"]
    while bench.waiting(bench.queue):
        runs.append(bench.receive(expect=1))
    told = [row["reason"] for rows in runs for row in kinds(rows, "refused_request")]
    assert sum("with the dead letters now" in reason for reason in told) == len(POISON)
    assert len(runs) == 2
    assert bench.waiting(bench.queue) == 0
    expected = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
    assert sorted(bench.taken_from(bench.dead)) == sorted(expected)
    assert bench.known() == dict.fromkeys(("first", "last", "later"), ("images", 3))


def test_in_a_long_run_poison_is_tried_now_and_then_and_told_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cftools.jobs.bulk_receive.HOLD_SECONDS", 0.1)
    bench.set(deliveries=4)
    bench.send(request("x", target="nowhere"), request("k"))
    rows = bench.receive("--for", "1500ms", expect=1)
    assert keys(rows) == ["k"]
    first, last = [row["reason"] for row in kinds(rows, "refused_request")]
    assert "delivery 1 of 4" in first
    assert "with the dead letters now" in last
    assert bench.waiting(bench.dead) == 1


def test_a_target_may_be_configured_before_the_last_delivery(bench: Bench) -> None:
    bench.set(deliveries=2)
    bench.send(request("k", target="videos"))
    assert keys(bench.receive(expect=1), "refused_request") == ["k"]
    bench.set(deliveries=2, targets=("images", "videos"))
    assert keys(bench.receive()) == ["k"]
    assert bench.waiting(bench.dead) == 0


def test_a_message_put_back_from_the_dead_letters_is_new(bench: Bench) -> None:
    bench.set(deliveries=1)
    bench.send(request("k", target="videos"))
    assert "dead letters now" in kinds(bench.receive(expect=1), "refused_request")[0]["reason"]
    with bench.channel() as channel:  # as a shovel does: with all its headers
        _, properties, body = channel.basic_get(bench.dead, auto_ack=True)
        properties.headers["x-delivery-count"] = 7
        channel.basic_publish("", bench.queue, body, properties)
    bench.set(deliveries=1, targets=("images", "videos"))
    assert keys(bench.receive()) == ["k"]


def test_a_message_that_kills_its_receiver_goes_to_the_dead_letters(bench: Bench) -> None:
    bench.set(deliveries=3)
    bench.send(request("killer"), request("k"))
    for _ in range(3):
        with bench.running("receive", dying_at="sql INSERT INTO bulk_request #1") as process:
            assert process.wait(PATIENCE) == -signal.SIGKILL
    assert keys(bench.receive()) == ["k"]
    assert bench.taken_from(bench.dead) == [json.dumps(request("killer")).encode()]


def test_a_full_disk_stops_it_and_counts_against_no_message(bench: Bench) -> None:
    bench.set(deliveries=2)
    bench.send(*(request(f"k{number}") for number in range(5)))
    spool = pytest.MonkeyPatch()
    spool.setattr("cftools.jobs.bulk_accept.tempfile.TemporaryFile", _no_room)
    with spool.context():
        for _ in range(4):
            rows = bench.receive(expect=70)
            assert [row["kind"] for row in rows] == ["begin"]
            assert "No space left" in bench.talk
            assert len(bench.talk.splitlines()) == 1
    spool.undo()
    assert sorted(keys(bench.receive())) == [f"k{number}" for number in range(5)]
    assert bench.waiting(bench.dead) == 0


def _no_room(**_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_signal_gives_back_what_was_not_begun(bench: Bench) -> None:
    bench.set(targets=("images",))
    with bench.running("receive", "--for", "60s") as process:
        bench.send(request("a"), request("x", target="nowhere"))
        bench.wait_for("a")
        said = bench.end(process, 128 + signal.SIGTERM)
    assert "Traceback" not in said
    assert bench.waiting(bench.queue) == 1


def test_two_receivers_share_a_queue(bench: Bench) -> None:
    wanted = [f"k{number:02}" for number in range(40)]
    bench.send(*map(request, wanted))
    with bench.running("receive") as process:
        rows = bench.receive()
        assert process.wait(30) == 0
    others = [json.loads(line) for line in (bench.folder / "out").read_text().splitlines()]
    assert sorted(keys(rows) + keys(others)) == wanted
    assert sorted(bench.known()) == wanted


def test_a_queue_with_other_arguments_is_told(bench: Bench) -> None:
    bench.send(request("a"))
    bench.set(deliveries=9)
    for words in (("receive",), ("receive", "--for", "9s")):
        bench.run("bulk-delete", *words, expect=69)
        (line,) = bench.talk.splitlines()
        assert f"queue '{bench.queue}'" in line
        assert "x-delivery-limit" in line
        assert "delete it when it is empty, or name others in bulk_delete.broker" in line


def test_a_wrong_password_is_told_without_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, bench.server.url("wr0ng"))
    submit = ("submit", "--request", "k", "--target", "images", "--via", "broker")
    for words in (("receive",), ("receive", "--for", "9s"), submit):
        bench.run("bulk-delete", *words, stdin=b"a\n", expect=69)
        (line,) = bench.talk.splitlines()
        assert "refuses the login of cftools" in line
        assert "wr0ng" not in line


def test_an_unknown_vhost_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, bench.server.url().removesuffix("%2F") + "nowhere")
    bench.receive("--for", "9s", expect=69)
    (line,) = bench.talk.splitlines()
    assert "vhost nowhere not found" in line


def test_an_account_without_leave_to_declare_is_told(bench: Bench) -> None:
    bench.keys_of_broker["queue"] = "amq.not-ours"  # a name that only the broker itself may declare
    bench.configure(bulk_delete={"targets": {}, "broker": bench.keys_of_broker})
    bench.receive(expect=69)
    (line,) = bench.talk.splitlines()
    assert "give it leave to configure, write and read" in line


@pytest.mark.parametrize("address", ["", "http://h/", f"amqp://u:{PASSWORD}@h/", "amqp://u@h/", "amqp://u:s@h:x/"])
def test_an_address_that_is_none_is_a_usage_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(VARIABLE, address)
    bench.receive(expect=2)
    (line,) = bench.talk.splitlines()
    assert VARIABLE in line
    assert "amqp://user:password@host:port/vhost" in line
    assert not address or address not in line
    assert PASSWORD not in line


def test_without_a_broker_in_the_config_it_says_so(bench: Bench) -> None:
    bench.configure(bulk_delete={"targets": {}})
    bench.receive(expect=2)
    assert bench.talk == "cftools: no broker is configured; add `broker: {}` to bulk_delete in the config\n"


def test_a_message_that_is_too_large_is_refused_before_it_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cftools.jobs.bulk_publish.LARGEST", 200)
    words = ("bulk-delete", "submit", "--request", "k", "--target", "images", "--via", "broker")
    bench.run(*words, stdin=b"f\n" * 10)
    bench.run(*words, stdin=b"f\n" * 60, expect=65)
    assert "use --via state, or divide it" in bench.talk
    assert bench.waiting(bench.queue) == 1


def test_a_queue_deleted_just_now_takes_no_message(bench: Bench) -> None:
    with Broker(bench.place()) as broker:
        with bench.channel() as channel:
            channel.queue_delete(bench.queue)
        with pytest.raises(Unreachable) as caught:
            broker.publish("k", b"{}")
    assert f"queue {bench.queue} was deleted just now; nothing is stored" in str(caught.value)


def test_a_broker_that_says_nothing_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cftools.jobs.bulk_publish.ANSWER_SECONDS", 0.3)
    words = ("submit", "--request", "k", "--target", "images", "--via", "broker")
    with bench.server.frozen():
        bench.run("bulk-delete", *words, stdin=b"a\n", expect=69)
    assert "no answer within 0.3s; it is not known whether the message arrived; send it again" in bench.talk
    for thread in threading.enumerate():  # it comes to an end with the broker awake
        if thread is not threading.current_thread() and thread.name.startswith("publish"):
            thread.join(PATIENCE)
    assert keys(bench.receive()) == ["k"]
