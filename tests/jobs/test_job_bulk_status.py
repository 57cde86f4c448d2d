"""status, wait, dead and retry: what the state knows about requests, and when `wait` ends with what."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from local_site import LocalSite
from site_of_sshd import Row, end, kinds

from cftools.cli.output import watched_request
from cftools.cli.settings import Settings
from cftools.config.load import load
from cftools.jobs import bulk_status
from cftools.jobs.job import Job, open_job
from cftools.model.errors import GivenUp, NotOver, UsageFault
from cftools.model.rows import RequestStatus
from cftools.state import requests

SERVERS = ["dest1", "dest2"]


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    site = LocalSite(tmp_path)
    targets = {"images": {"servers": SERVERS, "root": "/images"}}
    site.configure(bulk_delete={"partition": 10, "targets": targets})
    for key, count in (("album-1", 3), ("album-2", 15)):
        names = "".join(f"{number}.jpg\n" for number in range(count)).encode()
        site.run("bulk-delete", "submit", "--request", key, "--target", "images", stdin=names)
    return site


def settle(job: Job, key: str, *, dead: int = 0, state: str = "done") -> None:
    """Ends a request as a drain does: all of its files gone but so many, which were given up on."""
    request = requests.find(job.database, key)
    with job.database.transaction():
        job.database.execute("DELETE FROM bulk_work WHERE request = ?", (request.id,))
        for place in range(dead):
            values = (request.id, "dest1", 0, place, f"{place}.jpg", 3, "Permission denied", 1000.0)
            job.database.execute("INSERT INTO bulk_dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        ended = ("failed" if dead else state, time.time(), request.id)
        job.database.execute("UPDATE bulk_request SET state = ?, finished = ? WHERE id = ?", ended)


def settled(site: LocalSite, key: str, *, dead: int = 0, state: str = "done") -> None:
    with open_job(load(site.folder / "cftools.yaml"), "test") as job:
        settle(job, key, dead=dead, state=state)


def run(site: LocalSite, *words: str, expect: int = 0) -> list[Row]:
    rows = site.run("bulk-delete", *words, expect=expect)
    assert rows == [] or (rows[0]["kind"], rows[0]["command"]) == ("begin", f"bulk-delete {words[0]}")
    return rows


def test_status_shows_requests_and_what_each_server_has_before_it(site: LocalSite) -> None:
    rows = run(site, "status")
    assert [(row["request"], row["state"], row["waiting"]) for row in kinds(rows, "request_status")] == [
        ("album-1", "open", 6),
        ("album-2", "open", 30),
    ]
    assert [(row["server"], row["waiting"]) for row in kinds(rows, "place_status")] == [("dest1", 18), ("dest2", 18)]
    assert end(rows)["counts"] == {"request_status": 2, "place_status": 2}
    rows = run(site, "status", "album-1")
    assert [row["request"] for row in kinds(rows, "request_status")] == ["album-1"]
    assert [row["waiting"] for row in kinds(rows, "place_status")] == [3, 3]
    assert site.talk == ""


def test_status_of_a_failed_request_is_no_failure_of_the_command(site: LocalSite) -> None:
    settled(site, "album-1", dead=1)
    rows = run(site, "status", "album-1")
    assert kinds(rows, "request_status")[0]["state"] == "failed"
    assert site.talk == ""


@pytest.mark.parametrize("command", ["status", "wait", "dead", "retry"])
def test_a_request_that_is_not_known_is_said_to_be(site: LocalSite, command: str) -> None:
    assert run(site, command, "album-3", expect=2) == []
    assert site.talk.startswith("cftools: request album-3: not known here")
    assert run(site, command, "a\udcff", expect=2) == []
    assert "characters that cannot be printed" in site.talk


def test_wait_ends_at_once_when_the_request_is_done(site: LocalSite) -> None:
    settled(site, "album-1")
    rows = run(site, "wait", "album-1")
    assert [row["kind"] for row in rows] == ["begin", "request_status", "end"]
    assert (rows[1]["request"], rows[1]["state"], site.talk) == ("album-1", "done", "")


def test_wait_ends_with_1_and_the_way_to_the_dead_letters(site: LocalSite) -> None:
    settled(site, "album-1", dead=2)
    rows = run(site, "wait", "album-1", expect=1)
    assert kinds(rows, "request_status")[0]["dead"] == 2
    assert end(rows)["complete"] is True
    said = "2 files on servers were given up on; see: cftools bulk-delete dead album-1"
    assert site.talk == f"cftools: request album-1: {said}\n"


def test_wait_ends_with_75_when_it_takes_longer(site: LocalSite) -> None:
    began = time.monotonic()
    rows = run(site, "wait", "album-2", "--timeout", "300ms", expect=75)
    assert 0.3 <= time.monotonic() - began < 5
    assert kinds(rows, "request_status")[0]["state"] == "open"
    assert "request album-2: not over; 30 files on servers are left" in site.talk


def test_wait_of_no_time_is_one_look(site: LocalSite) -> None:
    assert len(kinds(run(site, "wait", "album-2", "--timeout", "0s", expect=75), "request_status")) == 1


def test_wait_sees_the_end_that_another_process_brings(site: LocalSite) -> None:
    config = load(site.folder / "cftools.yaml")
    looks: list[RequestStatus] = []
    looked = threading.Event()

    def end_it() -> None:
        looked.wait(10)
        with open_job(config, "drain") as other:
            settle(other, "album-1")

    def seen(status: RequestStatus) -> None:
        looks.append(status)
        looked.set()

    other = threading.Thread(target=end_it)
    other.start()
    with open_job(config, "wait") as job:
        rows = list(bulk_status.wait(job, "album-1", 20.0, seen))
    other.join()
    assert [look.state for look in looks][:1] + [look.state for look in looks][-1:] == ["open", "done"]
    assert isinstance(rows[1], RequestStatus)
    assert rows[1] == looks[-1]


def test_a_request_whose_files_were_brought_back_is_over(site: LocalSite) -> None:
    settled(site, "album-1", state="restored")
    assert kinds(run(site, "wait", "album-1"), "request_status")[0]["state"] == "restored"


def test_the_errors_of_wait_have_the_exit_codes_of_the_agreement() -> None:
    assert (GivenUp.exit_code, NotOver.exit_code) == (1, 75)


def test_dead_lists_the_letters_of_one_request_or_all(site: LocalSite) -> None:
    assert end(run(site, "dead"))["counts"] == {"dead_letter": 0}
    settled(site, "album-1", dead=1)
    settled(site, "album-2", dead=2)
    letters = kinds(run(site, "dead"), "dead_letter")
    assert [(one["request"], one["server"], one["resource"]) for one in letters] == [
        ("album-1", "dest1", "0.jpg"),
        ("album-2", "dest1", "0.jpg"),
        ("album-2", "dest1", "1.jpg"),
    ]
    assert (letters[0]["attempts"], letters[0]["error"], letters[0]["target"]) == (3, "Permission denied", "images")
    assert end(run(site, "dead", "album-1"))["counts"] == {"dead_letter": 1}


def test_retry_gives_dead_letters_back(site: LocalSite) -> None:
    settled(site, "album-2", dead=2)
    rows = run(site, "retry", "album-2")
    (row,) = kinds(rows, "request_status")
    assert (row["state"], row["waiting"], row["dead"]) == ("open", 2, 0)
    assert end(rows)["counts"] == {"request_status": 1, "retried": 2}
    assert kinds(run(site, "dead"), "dead_letter") == []


def test_retry_of_nothing_says_so(site: LocalSite) -> None:
    settled(site, "album-1")
    rows = run(site, "retry", "album-1")
    assert (kinds(rows, "request_status")[0]["state"], end(rows)["counts"]["retried"]) == ("done", 0)
    assert site.talk == "cftools: request album-1 has no dead letters; nothing to try again\n"


def test_what_was_brought_back_is_not_deleted_by_a_retry(site: LocalSite) -> None:
    settled(site, "album-1", dead=1)
    settled(site, "album-1", state="restored")
    assert run(site, "retry", "album-1", expect=2) == []
    assert "its files were brought back; send a new request" in site.talk


def test_a_request_that_is_forgotten_meanwhile_is_not_known(site: LocalSite) -> None:
    with open_job(load(site.folder / "cftools.yaml"), "wait") as job:

        def forget(_: RequestStatus) -> None:
            settle(job, "album-1")
            requests.forget(job.database, time.time() + 1)

        # The last look said open, and then it was gone.
        with pytest.raises(UsageFault, match="request album-1: not known here"):
            list(bulk_status.wait(job, "album-1", 10.0, forget))


def test_the_bar_of_wait_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status = RequestStatus("album-1", "images", "open", 3, done=1, already=1, waiting=3, dead=1)
    with watched_request(Settings()) as seen:
        seen(status)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with watched_request(Settings(quiet=True)) as seen:
        seen(status)
    assert capsys.readouterr().err == ""
    with watched_request(Settings()) as seen:
        seen(status)
    assert "3/6" in capsys.readouterr().err
