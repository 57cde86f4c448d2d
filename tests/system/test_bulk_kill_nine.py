"""kill -9 of drain and submit at any moment: in the end every file that was asked for is gone everywhere, no other is,
and the journal says of each that it was deleted, once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter, defaultdict

import pytest
from bulk_site import ALBUM, DRAIN, Album, notes
from faults import held, query
from kill_nine import processes_below
from site_of_sshd import MakeSite, kinds
from victims import Victim, Victims

pytestmark = pytest.mark.system

FILES = 6  # a request, in partitions of 3
SERVERS = ("dest1", "dest2", "dest3")
BYSTANDERS = ["photos", "a0", "k0.jpg", "k1-0.jpg.old", "-rf"]
SHORT = {"ssh": {"connect_timeout": "1s", "response_timeout": "0.5s"}}
SETTLED = "its run died; the file is gone"
KNOWN = ("intended", "done")
DRAINS = 3  # at once: whoever dies leaves the turn to the next one


class Kills:
    """Drains and submits that are killed, all on one state, and what is wrong then and in the end."""

    def __init__(self, album: Album, victims: Victims, seed: object) -> None:
        self.album, self.victims, self.chance = album, victims, random.Random(str(seed))
        self.killed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._keys = (f"k{number}" for number in itertools.count())
        self._asked: dict[str, list[str]] = {}
        album.put(BYSTANDERS)
        self._submit(self._new_key())  # the state is there from now on
        self._points: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = {}
        for verb in ("submit", "drain"):
            began = time.monotonic()
            _, victim = self._start(verb)
            assert self._end(victim) == 0
            self._seconds[verb] = time.monotonic() - began
            self._points[verb] = victim.points()

    def round(self, *, by_time: bool) -> None:
        """Some drains and a submit at once, of which each is killed at a point of its own, or after some time."""
        self._submit(self._new_key())
        verbs = ["drain"] * DRAINS + ["submit"]
        points = ["" if by_time else self._point(verb) for verb in verbs]
        victims = [self._start(verb, point) for verb, point in zip(verbs, points, strict=True)]
        began = time.monotonic()
        if by_time:
            delays = [self.chance.uniform(0.0, self._seconds[verb]) for verb in verbs]
            for delay, (_, victim) in sorted(zip(delays, victims, strict=True)):
                time.sleep(max(0.0, began + delay - time.monotonic()))
                os.kill(victim.pid, signal.SIGKILL)
        for key, victim in victims:
            self.killed["submit" if key else "drain"] += self._end(victim) == -signal.SIGKILL
        self._look()

    def _point(self, verb: str) -> str:
        """One by chance; of a drain's in the first half, for others take part of its work away."""
        every = self._points[verb]
        return self.chance.choice(every[: len(every) // 2] if verb == "drain" else every)

    def finish(self) -> None:
        """Sends again what may not have been accepted, lets drains do the rest, and looks whether all is as it must."""
        for key in self._asked:
            self._submit(key)
        for _ in range(4):
            while processes_below(self.album.site.folder / "servers"):
                time.sleep(0.02)
            self.album.change(
                "UPDATE bulk_work SET lease = 0, due = 0"
            )  # dead runs' claims come back, without the wait
            self.album.change("UPDATE bulk_pause SET until = 0")
            self.album.let_expire()
            self.album.drain()
            if not query(self.album.site, "SELECT 1 FROM bulk_work"):
                break
        self._look()
        self._look_at_the_end()

    def _look(self) -> None:
        for server in SERVERS:
            left = set(self.album.left(server))
            told = {note.name for note in notes(self.album.site) if note.server == server and note.state in KNOWN}
            gone = {name for names in self._asked.values() for name in names} - left
            self.wrong += [f"{server} lost {name} without a row" for name in gone - told]
            self.wrong += [f"{server} lost {name}, which nobody asked for" for name in set(BYSTANDERS) - left]

    def _look_at_the_end(self) -> None:
        everywhere = self.album.everywhere()
        if everywhere != {server: sorted(BYSTANDERS) for server in SERVERS}:
            self.wrong.append(f"still there, or gone too: {everywhere}")
        self._look_at_the_journal({name for names in self._asked.values() for name in names})
        self.wrong += [f"held: {lock}" for lock in held(self.album.site)]
        rows = kinds(self.album.run("bulk-delete", "status"), "request_status")
        if sorted(row["request"] for row in rows) != sorted(self._asked):
            self.wrong.append(f"requests: {[row['request'] for row in rows]}")
        for row in rows:
            if row["state"] != "done" or row["done"] + row["already"] != FILES * len(SERVERS) or row["dead"]:
                self.wrong.append(f"counts: {row}")

    def _look_at_the_journal(self, names: set[str]) -> None:
        told: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        until: dict[tuple[str, str], float] = {}
        for note in notes(self.album.site):
            place = note.server, note.name
            told[place].append((note.state, note.detail))
            if note.state == "done":
                if note.at < until.get(place, 0):
                    self.wrong.append(f"{place} was deleted twice at a time")
                until[place] = note.finished
        for place in itertools.product(SERVERS, names):
            # Of runs that died one after the other nobody knows which deleted it: each says so.
            certain, likely = told[place].count(("done", "")), told[place].count(("done", SETTLED))
            if certain + bool(likely) != 1:
                self.wrong.append(f"{place} was not deleted once: {told[place]}")
        for place, states in told.items():
            if place[1] not in names or ("intended", "") in states:
                self.wrong.append(f"nobody asked for {place}, or it is unsettled: {states}")

    def _new_key(self) -> str:
        """A new request and its files, which stand on all servers."""
        key = next(self._keys)
        self._asked[key] = [f"{key}-{number % 2}/{number}.jpg" for number in range(FILES)]
        self.album.put(self._asked[key])
        return key

    def _submit(self, key: str) -> None:
        self.album.submit(key, self._asked[key])

    def _start(self, verb: str, point: str = "") -> tuple[str, Victim]:
        """A drain, or a submit of a request of its own; its key, and the process."""
        if verb == "drain":
            return "", self.victims.start(*DRAIN, point=point)
        key = self._new_key()
        words = ("bulk-delete", "submit", "-", "--request", key, "--target", ALBUM)
        names = "".join(f"{name}\n" for name in self._asked[key])
        return key, self.victims.start(*words, stdin=names.encode(), point=point)

    def _end(self, victim: Victim) -> int:
        code = self.victims.wait(victim)
        assert code in (0, -signal.SIGKILL), f"exit {code}: {victim.talk.read_text()}"
        return code


def kill(make_site: MakeSite, seed: object, drains: int, submits: int) -> None:
    """Kills so many of each, and looks."""
    album = Album(make_site())
    album.configure(SHORT, partition=3)
    album.site.start(*SERVERS)
    with Victims(album.site.folder / "cftools.yaml", album.site.folder / "victims") as victims:
        kills = Kills(album, victims, seed)
        rounds = 0
        while kills.killed["drain"] < drains or kills.killed["submit"] < submits:
            kills.round(by_time=rounds % 3 == 2)
            rounds += 1
            assert rounds < drains, f"hardly anything is killed: {kills.killed}"
    kills.finish()
    print(f"{rounds} rounds, killed: {dict(kills.killed)}")
    assert kills.wrong == []


@pytest.mark.timeout(300)  # half a minute where nothing else runs
def test_drains_and_submits_that_are_killed_lose_nothing_and_delete_nothing_else(make_site: MakeSite) -> None:
    kill(make_site, "bulk", drains=110, submits=20)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_drains_and_submits_that_are_killed_hundreds_of_times_lose_nothing(make_site: MakeSite) -> None:
    kill(make_site, time.time(), drains=450, submits=150)
