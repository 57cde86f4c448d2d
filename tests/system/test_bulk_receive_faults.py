"""`bulk-delete receive` and `submit --via broker` when something dies: the broker, the receiver, the sender."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from pathlib import Path

import pytest
from broker_bench import PATIENCE, VARIABLE, Bench, request
from broker_server import BrokerServer
from kill_nine import spread
from site_of_sshd import Row, kinds

from cftools.remote.broker import Broker

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("broker"), pytest.mark.timeout(240)]

PROJECT = Path(__file__).parents[2]
SUBMIT = ("submit", "--target", "images", "--via", "broker", "--request")


@pytest.fixture
def bench(tmp_path: Path, broker: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv(VARIABLE, broker.url())
    return Bench(tmp_path, broker)


def keys(rows: list[Row]) -> list[str]:
    return [row["request"] for row in kinds(rows, "request")]


def points(bench: Bench, *words: str, stdin: bytes = b"") -> list[str]:
    """The fault points of an undisturbed run."""
    with bench.running(*words, stdin=stdin, dying_at="never") as process:
        assert process.wait(PATIENCE) == 0, (bench.folder / "talk").read_text()
    found = (bench.folder / "points").read_text().splitlines()
    assert any(point.startswith("broker") for point in found)
    return found


def test_a_receiver_outlives_a_restart_of_the_broker(bench: Bench) -> None:
    sleeping = Bench(bench.folder / "other", bench.server)
    sleeping.send(request("sleeper"))
    bench.send(request("before"))
    with bench.running("receive", "--for", "90s") as process:
        bench.wait_for("before")
        bench.server.stop()
        bench.wait_to_hear("trying again")
        bench.server.start()
        bench.send(request("after"))
        bench.wait_for("after")
        said = bench.end(process, 128 + signal.SIGTERM)
    complaint, last = said.splitlines()  # however often it tried
    assert complaint.startswith(f"cftools: broker 127.0.0.1:{bench.server.port}: ")
    assert last == "cftools: stopped by signal 15"
    assert keys(sleeping.receive()) == ["sleeper"]


def test_a_broker_that_dies_loses_nothing_it_confirmed(bench: Bench) -> None:
    wanted = [f"k{number:03}" for number in range(150)]
    bench.send(*map(request, wanted))
    bench.server.wait_until_noted(bench.queue)
    with bench.running("receive") as process:
        bench.wait_for("k005")
        bench.server.kill()
        code = process.wait(PATIENCE)
    (line,) = (bench.folder / "talk").read_text().splitlines()
    assert (code, line.partition(" lost")[0]) == (
        69,
        f"cftools: broker 127.0.0.1:{bench.server.port}: the connection was",
    )
    stored = list(bench.known())
    assert stored == wanted[: len(stored)]
    assert len(stored) < len(wanted)
    bench.server.start()
    rows = bench.receive()
    assert set(keys(rows)) >= set(wanted) - set(stored)
    assert sorted(bench.known()) == wanted  # what was on its way comes again, behind the others
    assert bench.waiting(bench.dead) == 0


def test_a_broker_that_is_not_there_is_waited_for_only_so_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "amqp://cftools:secret@127.0.0.1:1/")
    for words, least in (((), 0.0), (("--for", "1s"), 1.0)):
        started = time.monotonic()
        bench.receive(*words, expect=69)
        assert least <= time.monotonic() - started < least + 5
        assert "broker 127.0.0.1:1: cannot be reached: Connection refused" in bench.talk.splitlines()[-1]
        assert "secret" not in bench.talk
    bench.run("bulk-delete", *SUBMIT, "k", stdin=b"a\n", expect=69)
    assert bench.talk.count("\n") == 1


def test_a_signal_ends_it_though_the_broker_hangs(bench: Bench) -> None:
    bench.send(request("a"))
    with bench.running("receive", "--for", "90s") as process:
        bench.wait_for("a")
        with bench.server.frozen():
            started = time.monotonic()
            bench.end(process, 128 + signal.SIGTERM)
            assert time.monotonic() - started < 10
    with bench.server.frozen(), bench.running("receive", "--for", "90s") as process:
        bench.wait_to_hear('"begin"', "out")  # and now it tries to connect
        started = time.monotonic()
        bench.end(process, 128 + signal.SIGTERM)
        assert time.monotonic() - started < 5


def receive_killed(bench: Bench, at: list[str]) -> None:
    """Kills a receiver at each of these points, with new messages each time; all of them are stored in the end."""
    wanted = ["first"]
    for point, number in zip(at, count(), strict=False):
        new = [f"k{number}-{one}" for one in range(3)]
        wanted += new
        bench.send(*map(request, new))
        with bench.running("receive", dying_at=point) as process:
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL), point
    bench.receive()
    assert bench.talk == ""
    assert sorted(bench.known()) == sorted(wanted)  # each once, and whole: see Bench.known
    assert bench.waiting(bench.queue) == bench.waiting(bench.dead) == 0


def test_a_receiver_killed_anywhere_loses_no_request_and_takes_none_twice(bench: Bench) -> None:
    bench.send(request("first"))
    every = [point for point in points(bench, "receive") if not point.startswith("file open out")]
    receive_killed(bench, spread(every, 25, "receive"))


@pytest.mark.sweep
@pytest.mark.timeout(600)
def test_sweep_a_receiver_killed_at_any_time(bench: Bench) -> None:
    bench.set(deliveries=20)
    chance, wanted, killed = random.Random(), list[str](), 0
    for number in range(100):
        new = [f"k{number}-{one}" for one in range(10)]
        wanted += new
        bench.send(*(request(key, chance.choice([1, 50])) for key in new))
        with bench.running("receive") as process:
            while process.poll() is None and not (bench.folder / "out").stat().st_size:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.15))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed > 50
    bench.receive()
    assert sorted(bench.known()) == sorted(wanted)
    assert bench.waiting(bench.queue) == bench.waiting(bench.dead) == 0


@pytest.mark.sweep
@pytest.mark.timeout(600)
def test_sweep_a_receiver_killed_at_every_point(bench: Bench) -> None:
    bench.send(request("first"))
    receive_killed(bench, points(bench, "receive"))


def test_once_a_receiver_died_a_death_counts_against_one_message_only(bench: Bench) -> None:
    bench.send(*(request(f"k{number}") for number in range(6)))
    for death in (3, 1, 1):
        with bench.running("receive", dying_at=f"sql INSERT INTO bulk_request #{death}") as process:
            assert process.wait(PATIENCE) == -signal.SIGKILL
    assert list(bench.known()) == ["k0", "k1"]
    with Broker(bench.place()) as broker:
        broker.consume(10)
        deliveries = [message.delivery for _ in range(4) if (message := broker.take(5))]
    # All four were taken in when the first one died, then one at a time.
    assert sorted(deliveries) == [2, 2, 3, 3]


def submit_killed(bench: Bench, at: list[str]) -> None:
    """Kills a sender at each of these points and sends the request again; every one is stored in the end."""
    arrived = 0
    for number, point in enumerate(at):
        with bench.running(*SUBMIT, f"k{number}", stdin=b"a\nb\n", dying_at=point) as process:
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL), point
        rows = bench.receive()
        assert keys(rows) in ([], [f"k{number}"])  # whole, or not at all
        arrived += bool(keys(rows))
        bench.run("bulk-delete", *SUBMIT, f"k{number}", stdin=b"a\nb\n")
        (row,) = kinds(bench.receive(), "request")
        assert (row["request"], row["duplicate"]) == (f"k{number}", bool(keys(rows)))
    assert 0 < arrived < len(at)
    assert bench.known() == {f"k{number}": ("images", 2) for number in range(len(at))}
    assert bench.waiting(bench.dead) == 0


def test_a_sender_killed_anywhere_may_send_it_again(bench: Bench) -> None:
    every = points(bench, *SUBMIT, "first", stdin=b"a\nb\n")
    assert keys(bench.receive()) == ["first"]
    (bench.folder / "state" / "state.db").unlink()
    submit_killed(bench, [*spread(every, 4, "submit"), "broker declare #1", "broker publish #1"])


@pytest.mark.sweep
@pytest.mark.timeout(600)
def test_sweep_a_sender_killed_at_every_point(bench: Bench) -> None:
    every = points(bench, *SUBMIT, "first", stdin=b"a\nb\n")
    bench.receive()
    (bench.folder / "state" / "state.db").unlink()
    submit_killed(bench, every)


def test_the_application_of_the_readme_publishes_a_request(bench: Bench) -> None:
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", (PROJECT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (example,) = [textwrap.dedent(block) for block in blocks if "basic_publish" in block]
    bench.queue, bench.dead = "cftools.bulk-delete", "cftools.bulk-delete.dead"  # what the config says by itself
    bench.set()
    bench.receive()  # declares the queue
    subprocess.run([sys.executable, "-W", "error", "-c", example], check=True, timeout=PATIENCE)
    (row,) = kinds(bench.receive(), "request")
    assert (row["request"], row["target"], row["duplicate"]) == ("album-7", "images", False)


def test_the_definitions_in_conf_are_what_is_declared(bench: Bench) -> None:
    text = (PROJECT / "conf" / "bulk-delete-broker.json").read_text()
    ours = json.loads(text.replace("cftools.bulk-delete", bench.queue))
    with bench.channel() as channel:
        for one in ours["exchanges"]:
            channel.exchange_declare(one["name"], one["type"], durable=one["durable"])
        for one in ours["queues"]:
            channel.queue_declare(one["name"], durable=one["durable"], arguments=one["arguments"])
        for one in ours["bindings"]:
            channel.queue_bind(one["destination"], one["source"])
    bench.send(request("k"))  # another declaration of theirs would be a fault
    assert keys(bench.receive()) == ["k"]
