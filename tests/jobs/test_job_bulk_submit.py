"""bulk-delete submit: all of a request is looked at, then it is stored whole, or nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_site import LocalSite
from site_of_sshd import Row
from stored_requests import stored

from cftools.jobs.inputs import opened
from cftools.model.errors import InputUnusable

TARGETS = {
    "images": {"servers": ["dest2", "dest1"], "root": "/images", "protect": ["*/original/*", "?.raw"]},
    "albums": {"url": "s3://albums/photos"},
}


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    site = LocalSite(tmp_path)
    configure(site)
    return site


def configure(site: LocalSite, **keys: Any) -> None:
    bulk = {"partition": 2, "targets": TARGETS, **keys}
    site.configure(bulk_delete=bulk, ignore={"prefixes": ["M64"]})


def submit(site: LocalSite, names: bytes, *words: str, key: str = "album-7", expect: int = 0) -> list[Row]:
    given = [] if "--target" in words else ["--target", "images"]
    return site.run("bulk-delete", "submit", "-", "--request", key, *given, *words, stdin=names, expect=expect)


def row(resources: int, *, duplicate: bool = False, target: str = "images") -> list[Row]:
    request = {"kind": "request", "request": "album-7", "target": target}
    return [{**request, "resources": resources, "duplicate": duplicate}]


def test_a_request_is_stored_in_blocks_with_work_for_each_server_in_order(site: LocalSite) -> None:
    assert submit(site, b"b.jpg\na/\xff.jpg\nb.jpg\n") == row(3)
    assert site.talk == ""
    work = [("dest1", 0, "0-1"), ("dest2", 0, "0-1"), ("dest1", 1, "0"), ("dest2", 1, "0")]
    assert stored(site) == [("album-7", "images", 3, "open", [b"b.jpg\0a/\xff.jpg\0", b"b.jpg\0"], work)]
    assert site.calls == []


def test_object_storage_is_one_place(site: LocalSite) -> None:
    assert submit(site, b"a\n", "--target", "albums") == row(1, target="albums")
    assert stored(site)[0][-1] == [("s3://albums/photos", 0, "0")]


def test_each_form_and_a_file_are_the_same_request(site: LocalSite) -> None:
    names = [b"a/1.jpg", b"\xff.jpg", "사진.jpg".encode()]
    texts = [name.decode(errors="surrogateescape") for name in names]
    assert submit(site, b"\n".join(names)) == row(3)
    assert submit(site, json.dumps(texts).encode()) == row(3, duplicate=True)
    assert submit(site, "".join(json.dumps({"resource": one}) + "\n" for one in texts).encode()) == row(
        3, duplicate=True
    )
    path = site.folder / "names"
    path.write_bytes(b"\n".join(names))
    assert site.run("bulk-delete", "submit", str(path), "--request", "album-7", "--target", "images") == row(
        3, duplicate=True
    )
    assert len(stored(site)) == 1


def test_a_key_that_stands_for_another_request_is_refused(site: LocalSite) -> None:
    submit(site, b"a\nb\n")
    before = stored(site)
    for names, words in ((b"a\n", ()), (b"b\na\n", ()), (b"ab\n\n", ()), (b"a\nb\n", ("--target", "albums"))):
        assert submit(site, names, *words, expect=65) == []
        assert site.talk.count("\n") >= 1
    assert "stdin: request album-7 was accepted before with other content (2 files of images)" in site.talk
    assert stored(site) == before


def test_an_array_without_files_is_a_request_that_is_done_at_once(site: LocalSite) -> None:
    assert submit(site, b"[]") == row(0)
    assert stored(site) == [("album-7", "images", 0, "done", [], [])]


def test_nothing_at_all_is_refused_for_a_pipe_may_have_broken(site: LocalSite) -> None:
    assert submit(site, b"", expect=65) == []
    assert "stdin: it names no file; see why" in site.talk
    assert stored(site) == []


def test_every_unfit_name_is_told_and_nothing_is_stored(site: LocalSite) -> None:
    names = [f"{number}.jpg".encode() for number in range(1, 101)]
    names[4], names[49], names[99] = b"../etc/passwd", b"a\rb", b""
    assert submit(site, b"\n".join(names) + b"\n", "--input", "lines", expect=65) == []
    assert site.talk.splitlines() == [
        "cftools: stdin: file 5 ('../etc/passwd'): path part '..'",
        "cftools: stdin: file 50 ('a\\x0db'): control character U+000D",
        "cftools: stdin: file 100 (''): empty name",
        "cftools: stdin: 3 of 100 names cannot be asked for; nothing was stored",
    ]
    assert stored(site) == []


def test_unfit_names_are_told_with_q_too(site: LocalSite) -> None:
    site.run("-q", "bulk-delete", "submit", "--request", "k", "--target", "images", stdin=b'["a\\u0000b"]', expect=65)
    assert "file 1 ('a\\x00b'): NUL in the name" in site.talk


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "it is empty"),
        ("a" * 201, "it is longer than 200 characters"),
        ("a\tb", "it has characters that cannot be printed"),
        ("a\udcff", "it has characters that cannot be printed"),
        (" a", "it begins or ends with a blank"),
    ],
)
def test_a_key_that_cannot_be_is_refused_before_anything_is_read(site: LocalSite, key: str, why: str) -> None:
    submit(site, b"", key=key, expect=2)
    assert site.talk.startswith("cftools: request key '")
    assert site.talk.endswith(f"': {why}\n")


def test_a_key_may_have_200_characters_of_any_script(site: LocalSite) -> None:
    assert submit(site, b"a\n", key="앨범 " * 66 + "#7")[0]["request"] == "앨범 " * 66 + "#7"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "image"), "no target 'image' in the config; there are: albums, images"),
        (("--input", "csv"), "--input csv: give one of lines, ndjson, json"),
        (("--via", "mail"), "--via mail: give one of state, broker"),
    ],
)
def test_options_that_mean_nothing_say_what_there_is(site: LocalSite, words: tuple[str, ...], said: str) -> None:
    submit(site, b"a\n", *words, expect=2)
    assert site.talk == f"cftools: {said}\n"


def test_without_targets_it_says_where_they_go(site: LocalSite) -> None:
    configure(site, targets={})
    submit(site, b"a\n", expect=2)
    assert "there are: none; add one under bulk_delete.targets" in site.talk


def test_a_file_that_is_not_there_is_unusable(site: LocalSite) -> None:
    site.run("bulk-delete", "submit", "nowhere", "--request", "k", "--target", "images", expect=65)
    assert site.talk == "cftools: nowhere: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(("most", "code"), [(3, 0), (2, 73)])
def test_a_request_may_name_so_many_files_and_no_more(site: LocalSite, most: int, code: int) -> None:
    configure(site, max_resources=most)
    submit(site, b"a\nb\nc\n", expect=code)
    assert len(stored(site)) == (code == 0)
    if code:
        what = f"the request names more than {most} files; divide it, or raise bulk_delete.max_resources"
        assert site.talk == f"cftools: guard max_resources: {what}\n"


def test_protected_files_refuse_the_request(site: LocalSite) -> None:
    configure(site, protect=["*.keep"])
    names = [b"a/original/1.jpg", b"ok.jpg", b"a/original/2.jpg", b"b/original/x.keep", b"x.raw", b"xy.raw"]
    names += [f"a/original/{number}".encode() for number in range(10)]
    assert submit(site, b"\n".join(names), expect=73) == []
    assert site.talk.splitlines() == [
        "cftools: guard protect: the request names files that match '*/original/*'"
        " (13 of them: a/original/1.jpg, a/original/2.jpg, b/original/x.keep, ...); nothing was stored",
        "cftools: guard protect: the request names files that match '*.keep' (1 of them: b/original/x.keep);"
        " nothing was stored",
        "cftools: guard protect: the request names files that match '?.raw' (1 of them: x.raw); nothing was stored",
    ]
    assert stored(site) == []
    assert submit(site, b"xy.raw\noriginal/a\nkeep\nA/ORIGINAL/1\n\xff\xff.raw\n") == row(5)


def test_patterns_take_a_byte_that_is_no_utf8_for_one_character(site: LocalSite) -> None:
    submit(site, b"\xff.raw\n", expect=73)
    assert "match '?.raw' (1 of them: \\xff.raw)" in site.talk


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("*", b"a", b""),
        ("[ab]*", b"bc", b"c"),
        ("x[!a-c]z*.jpg", b"xdz1.jpg", b"xaz1.jpg"),
        ("a[b", b"a[b", b"ab"),
        ("?", b"\xff", b"ab"),
        ("*/사진/*", "7/사진/1".encode(), "사진/1".encode()),
        ("*.keep*", b"a.keep.jpg", b"a.Keep.jpg"),
        ("[*]a", b"*a", b"ba"),
    ],
)
def test_a_pattern_is_one_of_a_shell_for_the_whole_name(site: LocalSite, pattern: str, hit: bytes, miss: bytes) -> None:
    configure(site, protect=[pattern])
    submit(site, b"other/7.gif\n" * (pattern != "*") + hit + b"\n", expect=73)
    assert f"match '{pattern}' (1 of them: " in site.talk
    assert not miss or submit(site, b"other/7.gif\n" + miss + b"\n") == row(2)


def test_files_that_cftools_never_touches_refuse_the_request(site: LocalSite) -> None:
    submit(site, b"M64/a\na/M64\nM641\n", expect=73)
    assert "guard ignore.prefixes: the request names files that begin with 'M64' (2 of them: M64/a, M641)" in site.talk
    assert submit(site, b"a/M64\nm64\n") == row(2)


def test_a_dry_run_looks_at_everything_and_stores_nothing(site: LocalSite) -> None:
    assert submit(site, b"a\nb\n", "--dry-run") == row(2)
    assert site.talk == "cftools: a dry run: the request could be accepted, and was not\n"
    assert submit(site, b"a\nb\n", "--dry-run", "--via", "broker") == row(2)
    assert stored(site) == []
    submit(site, b"a\nb\n")
    assert submit(site, b"a\nb\n", "--dry-run") == row(2, duplicate=True)
    submit(site, b"a\n", "--dry-run", expect=65)
    submit(site, b"/a\n", "--dry-run", expect=65)
    submit(site, b"x.raw\n", "--dry-run", expect=73)


def test_blocks_are_cut_alike_wherever_the_reading_was(site: LocalSite) -> None:
    configure(site, partition=2000)
    names = [f"photos/2026/{number:07d}.jpg" for number in range(100_000)]
    submit(site, "\n".join(names).encode())
    ((_, _, count, _, blocks, work),) = stored(site)
    assert (count, len(blocks), len(work)) == (100_000, 50, 100)
    assert {block.count(b"\0") for block in blocks} == {2000}
    assert b"".join(blocks).split(b"\0")[:-1] == [name.encode() for name in names]


def test_the_names_wait_in_the_folder_of_the_state_and_leave_nothing_there(site: LocalSite) -> None:
    submit(site, b"a\n")
    before = {path for path in (site.folder / "state").rglob("*") if not path.match("state.db-*")}
    submit(site, b"/a\n", key="b", expect=65)
    submit(site, b"a\n", key="c")
    assert {path for path in (site.folder / "state").rglob("*") if not path.match("state.db-*")} == before


def test_a_stdin_that_is_closed_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cftools.jobs.inputs.sys.stdin", None)
    with pytest.raises(InputUnusable, match="stdin: it is closed"), opened("-"):
        pass
