"""bulk-delete collect, on tables of a real PostgreSQL: each row is taken once, or says why it is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from outbox_shop import CONF, VARIABLE, Shop
from postgres_server import KEEPER, PASSWORD, PostgresServer
from site_of_sshd import end, kinds


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path, postgres)
    monkeypatch.setenv(VARIABLE, shop.address)
    return shop


def test_the_example_transaction_of_an_application_is_collected(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE album (id integer PRIMARY KEY)",
        "CREATE TABLE photo (album integer REFERENCES album (id), path text)",
        "INSERT INTO album VALUES (7), (8)",
        "INSERT INTO photo VALUES (7, '7/b.jpg'), (7, '7/a.jpg'), (8, '8/c.jpg')",
    )
    shop.run((CONF / "bulk-delete-outbox-example.sql").read_text())
    rows = shop.collect()
    assert [row["kind"] for row in rows] == ["begin", "request", "end"]
    request = {"kind": "request", "request": "album-7", "target": "images", "resources": 2, "duplicate": False}
    assert rows[1] == request
    assert end(rows)["counts"] == {"request": 1, "refused_request": 0, "duplicate": 0}
    assert (shop.files(), shop.site.talk) == ({"album-7": [b"7/a.jpg", b"7/b.jpg"]}, "")
    assert shop.rows() == [("album-7", True, None)]
    assert kinds(shop.collect(), "request") == []


def test_the_role_that_collects_needs_no_more_than_the_example_grants(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.ask("a", ["1.jpg"])
    shop.ask("b", ["/1.jpg"])
    database = shop.address.rpartition("/")[2]
    shop.postgres.query("DROP ROLE IF EXISTS collector")
    shop.postgres.query("CREATE ROLE collector LOGIN")
    shop.run("GRANT USAGE ON SCHEMA public TO collector")
    monkeypatch.setenv(VARIABLE, shop.postgres.dsn(database, "collector"))
    shop.collect(expect=65)
    assert shop.site.talk == (
        "cftools: outbox shop: permission denied for table bulk_delete_outbox;"
        " compare bulk_delete.outboxes.shop in the config with the table\n"
    )
    shop.run("GRANT SELECT, UPDATE (taken, error) ON bulk_delete_outbox TO collector")
    assert len(kinds(shop.collect(expect=1), "request")) == 1
    assert [taken for _, taken, _ in shop.rows()] == [True, False]
    shop.postgres.query("DROP OWNED BY collector", database=database)
    shop.postgres.query("DROP ROLE collector")


def test_requests_that_cannot_be_are_told_and_the_others_are_taken(shop: Shop) -> None:
    shop.ask("a", ["ok.jpg", "../no.jpg", "", "/x", "y/"])
    shop.ask("b", ["1.jpg"], target="imags")
    shop.ask("c", ["1.jpg", "2.keep"])
    shop.ask("d", [f"{number}.jpg" for number in range(50_001)])
    shop.ask("e", ["fine.jpg"])
    shop.ask(" f", ["fine.jpg"])
    rows = shop.collect(expect=1)
    assert [row["request"] for row in kinds(rows, "request")] == ["e"]
    assert end(rows)["counts"] == {"request": 1, "refused_request": 5, "duplicate": 0}
    reasons = {row["request"]: row["reason"] for row in kinds(rows, "refused_request")}
    assert reasons == {
        "a": "4 of 5 names cannot be asked for: file 2 ('../no.jpg'): path part '..'; file 3 (''): empty name;"
        " file 4 ('/x'): absolute path; nothing was stored",
        "b": "no target 'imags' in the config; there are: images",
        "c": "guard protect: the request names files that match '*.keep' (1 of them: 2.keep); nothing was stored",
        "d": "guard max_resources: the request names more than 50,000 files; divide it,"
        " or raise bulk_delete.max_resources",
        " f": "request key ' f': it begins or ends with a blank",
    }
    assert {key: error for key, taken, error in shop.rows() if not taken} == reasons
    assert sorted(shop.site.talk.splitlines()) == sorted(
        f"cftools: outbox shop: request {key}: refused: {reason}" for key, reason in reasons.items()
    )
    assert shop.files() == {"e": [b"fine.jpg"]}
    assert kinds(shop.collect(), "refused_request") == []  # they wait for the application


def test_a_refused_request_is_tried_again_when_the_application_says_so(shop: Shop) -> None:
    shop.ask("a", ["1.jpg", "2.jpg\r"])
    shop.collect(expect=1)
    shop.run("UPDATE bulk_delete_outbox SET error = NULL")
    shop.collect(expect=1)
    shop.run("UPDATE bulk_delete_outbox SET error = NULL, resources = '{1.jpg,2.jpg}'")
    assert kinds(shop.collect(), "request")[0]["resources"] == 2
    assert shop.rows() == [("a", True, None)]


def test_a_request_that_is_known_is_marked_and_stored_once(shop: Shop) -> None:
    """As after a run that was killed between the two."""
    shop.ask("a", ["1.jpg"])
    shop.collect()
    shop.run("UPDATE bulk_delete_outbox SET taken = NULL")
    rows = shop.collect()
    assert kinds(rows, "request")[0]["duplicate"] is True
    assert end(rows)["counts"]["duplicate"] == 1
    assert shop.rows() == [("a", True, None)]
    shop.run("UPDATE bulk_delete_outbox SET taken = NULL, resources = '{2.jpg}'")
    shop.collect(expect=1)
    assert "request a was accepted before with other content (1 files of images)" in str(shop.rows()[0][2])
    assert shop.files() == {"a": [b"1.jpg"]}


NAMES = ["a.jpg", "사진/여름.jpg", 'q"\\,{}.jpg', " x ", "\uf780"]
FORMS: dict[str, tuple[str, Any]] = {
    "text[]": ("{}", NAMES),
    "varchar[]": ("{}", NAMES),
    "json": ("[]", json.dumps(NAMES)),
    "jsonb": ("[]", json.dumps(NAMES, ensure_ascii=False)),
    "text": ("", "\n".join(NAMES) + "\n"),
    "varchar": ("", "\n".join(NAMES)),
}


def of_type(shop: Shop, kind: str, *values: Any) -> None:
    """Gives the column another type, and the table rows with these values."""
    shop.run("ALTER TABLE bulk_delete_outbox DROP COLUMN resources")
    shop.run(f"ALTER TABLE bulk_delete_outbox ADD COLUMN resources {kind}")
    with shop.connected() as connection:
        for number, value in enumerate(values):
            insert = "INSERT INTO bulk_delete_outbox (request, target, resources) VALUES (%s, 'images', %s)"
            connection.execute(insert, (f"r{number}", value))


@pytest.mark.parametrize("kind", FORMS)
def test_the_files_may_be_in_columns_of_several_types(shop: Shop, kind: str) -> None:
    empty, full = FORMS[kind]
    of_type(shop, kind, full, empty, None)
    refused = 1 if ("text" not in kind and "varchar" not in kind) or "[]" in kind else 2
    rows = shop.collect(expect=1)
    expected = {"r0": [name.encode() for name in NAMES], "r1": []}
    assert shop.files() == dict(list(expected.items())[: 3 - refused])
    reasons = [row["reason"] for row in kinds(rows, "refused_request")]
    null = "it names no file: null; a request without files is an empty array"
    assert reasons == ["it names no file: it is empty", null][2 - refused :]


def test_names_that_are_not_utf8_travel_as_escapes_in_json(shop: Shop) -> None:
    of_type(shop, "json", json.dumps(["\udcff\udc80.jpg", "a\\udcff"]))
    shop.collect()
    assert shop.files() == {"r0": [b"\xff\x80.jpg", b"a\\udcff"]}


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("json", '["a", 7]', "its JSON array: file 2 is no string: b'7'"),
        ("jsonb", '["a", null]', "its JSON array: file 2 is no string: b'null'"),
        ("json", '{"a": "b"}', "its resources: cannot call json_array_elements on a non-array"),
        ("jsonb", '"a"', "its resources: cannot extract elements from a scalar"),
        ("json", '["a\\u0000b"]', "1 of 1 names cannot be asked for: file 1 ('a\\x00b'): NUL in the name"),
        ("json", '["\\ud800"]', "its JSON array: file 1 is no string"),
        ("text[]", ["a", None], "file 2 is null"),
        ("text", "a.jpg\r\nb.jpg\r\n", "2 of 2 names cannot be asked for: file 1 ('a.jpg\\x0d'): control character"),
        ("text", "a\n\nb", "1 of 3 names cannot be asked for: file 2 (''): empty name"),
        ("text", "\n", "1 of 1 names cannot be asked for: file 1 (''): empty name"),
    ],
)
def test_a_row_that_holds_something_else_is_refused_alone(shop: Shop, kind: str, value: Any, said: str) -> None:
    of_type(shop, kind, value, ["good.jpg"] if kind == "text[]" else '["good.jpg"]' if "json" in kind else "good.jpg")
    rows = shop.collect(expect=1)
    assert kinds(rows, "refused_request")[0]["reason"].startswith(said)
    assert shop.files() == {"r1": [b"good.jpg"]}


def test_a_request_of_many_files_comes_in_pieces_and_in_order(shop: Shop) -> None:
    names = [f"{number:06d}/{number}.jpg" for number in range(50_000, 0, -1)]
    shop.ask("many", names)
    of_type_text = "\n".join(names) + "\n"
    shop.collect()
    assert shop.files() == {"many": [name.encode() for name in names]}
    of_type(shop, "text", of_type_text)
    shop.collect()
    assert shop.files()["r0"] == shop.files()["many"]


def test_table_and_columns_have_the_names_of_the_config(shop: Shop) -> None:
    shop.run(
        'CREATE SCHEMA "My App"',
        'CREATE TABLE "My App"."Out;box" (n bigint PRIMARY KEY, "to" varchar(20), "Files" jsonb, "when" timestamptz,'
        ' "why" text)',
        """INSERT INTO "My App"."Out;box" VALUES (7, 'images', '["a.jpg"]'), (8, 'nowhere', '["a.jpg"]')""",
    )
    columns = {"key": "n", "target": "to", "resources": "Files", "taken": "when", "error": "why"}
    shop.configure(table="My App.Out;box", **columns)
    assert [row["request"] for row in kinds(shop.collect(expect=1), "request")] == ["7"]
    with shop.connected() as connection:
        rows = connection.execute('SELECT n, "when" IS NULL, why IS NULL FROM "My App"."Out;box" ORDER BY n').fetchall()
    assert rows == [(7, False, True), (8, True, False)]


def test_rows_without_key_or_target_are_refused_and_do_not_stop_the_others(shop: Shop) -> None:
    shop.run(
        "ALTER TABLE bulk_delete_outbox DROP CONSTRAINT bulk_delete_outbox_pkey, ALTER target DROP NOT NULL",
        "ALTER TABLE bulk_delete_outbox ALTER request DROP NOT NULL",
        "INSERT INTO bulk_delete_outbox VALUES (NULL, 'images', '{a}'), ('k', NULL, '{a}'), ('z', 'images', '{a}')",
    )
    rows = shop.collect(expect=1)
    assert [row["reason"] for row in kinds(rows, "refused_request")] == [
        "no target '' in the config; there are: images",
        "request key '': it is empty",
    ]
    assert shop.files() == {"z": [b"a"]}


def wrong_column(shop: Shop) -> None:
    shop.configure(resources="files")


def wrong_table(shop: Shop) -> None:
    shop.configure(table="nobody.outbox")


def wrong_type(shop: Shop) -> None:
    shop.run("ALTER TABLE bulk_delete_outbox ADD COLUMN files bytea")
    shop.configure(resources="files")


def wrong_trigger(shop: Shop) -> None:
    shop.run("CREATE RULE nothing AS ON UPDATE TO bulk_delete_outbox DO INSTEAD NOTHING")


TABLE_FAULTS = {
    wrong_column: 'column "files" does not exist',
    wrong_table: 'relation "nobody.outbox" does not exist',
    wrong_type: "the column files is of another type than text[], json, jsonb or text",
    wrong_trigger: "a row cannot be marked as taken; a rule or trigger forbids it",
}


@pytest.mark.parametrize("make_wrong", TABLE_FAULTS)
def test_a_table_that_is_not_as_the_config_says_is_unusable(shop: Shop, make_wrong: Any) -> None:
    shop.ask("a", ["1.jpg"])
    make_wrong(shop)
    rows = shop.collect(expect=65)
    assert [row["kind"] for row in rows] == ["begin"]
    assert shop.site.talk.startswith(f"cftools: outbox shop: {TABLE_FAULTS[make_wrong]}")
    assert shop.site.talk.count("\n") == 1
    assert shop.rows() == [("a", False, None)]


def test_a_source_that_is_none_and_a_variable_that_is_not_set(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.site.run("bulk-delete", "collect", "--source", "shops", expect=2)
    assert shop.site.talk == "cftools: no outbox 'shops' in the config; there are: shop\n"
    monkeypatch.delenv(VARIABLE)
    shop.collect(expect=2)
    assert "outbox shop: the environment variable SHOP_DATABASE is not set; it holds" in shop.site.talk


def test_an_address_that_is_none_is_not_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql:/me:s3cret@nowhere?x=1")
    shop.collect(expect=2)
    assert "outbox shop: SHOP_DATABASE holds no address of a database" in shop.site.talk
    assert "s3cret" not in shop.site.talk


def test_a_wrong_password_is_not_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    database = shop.address.rpartition("/")[2]
    address = shop.postgres.dsn(database, KEEPER).replace(KEEPER, f"{KEEPER}:s3cret", 1)
    monkeypatch.setenv(VARIABLE, address)
    shop.collect(expect=69)
    assert "password authentication failed" in shop.site.talk
    assert shop.site.talk.count("\n") == 1
    assert "s3cret" not in shop.site.talk
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv(VARIABLE, shop.postgres.dsn(database, KEEPER))
    assert end(shop.collect())["complete"] is True


def test_a_database_that_cannot_be_reached_is_unreachable(shop: Shop) -> None:
    shop.ask("a", ["1.jpg"])
    shop.postgres.stop()
    rows = shop.collect(expect=69)
    assert [row["kind"] for row in rows] == ["begin"]
    assert shop.site.talk.startswith("cftools: outbox shop: connection failed")
    assert shop.site.talk.endswith("; nothing was taken\n")
    assert shop.site.talk.count("\n") == 1
    shop.postgres.start()
    assert shop.rows() == [("a", False, None)]


def test_a_connection_lost_between_storing_and_marking_is_mended_by_the_next_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abc":
        shop.ask(key, [f"{key}.jpg"])
    from cftools.jobs import bulk_accept

    accept = bulk_accept.accept

    def accept_and_cut(job: Any, key: str, *rest: Any, **named: Any) -> Any:
        request = accept(job, key, *rest, **named)
        if key == "b":
            shop.postgres.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )
        return request

    monkeypatch.setattr(bulk_accept, "accept", accept_and_cut)
    rows = shop.collect(expect=69)
    assert [row["request"] for row in kinds(rows, "request")] == ["a"]
    assert shop.site.talk.count("\n") == 1
    assert "what was taken before stays taken, run it again for the rest" in shop.site.talk
    assert shop.rows() == [("a", True, None), ("b", False, None), ("c", False, None)]
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, shop.address)
    rows = shop.collect()
    assert [(row["request"], row["duplicate"]) for row in kinds(rows, "request")] == [("b", True), ("c", False)]
    assert shop.files() == {"a": [b"a.jpg"], "b": [b"b.jpg"], "c": [b"c.jpg"]}


def test_a_row_that_another_collect_has_is_passed_over(shop: Shop) -> None:
    shop.ask("a", ["a.jpg"])
    shop.ask("b", ["b.jpg"])
    with shop.connected() as other:
        other.execute("SELECT 1 FROM bulk_delete_outbox WHERE request = 'a' FOR UPDATE")
        assert [row["request"] for row in kinds(shop.collect(), "request")] == ["b"]
    assert [row["request"] for row in kinds(shop.collect(), "request")] == ["a"]


def test_without_psycopg_it_says_what_to_install(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cftools.remote.outbox", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    shop.collect(expect=2)
    assert shop.site.talk == "cftools: an outbox needs psycopg; install it: pip install 'cftools[postgresql]'\n"


def test_a_table_that_stays_locked_is_left_for_the_next_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cftools.remote.outbox.LOCK_SECONDS", 0.1)
    with shop.connected() as other:
        other.execute("LOCK TABLE bulk_delete_outbox")
        shop.collect(expect=69)
    assert "outbox shop: canceling statement due to lock timeout" in shop.site.talk
