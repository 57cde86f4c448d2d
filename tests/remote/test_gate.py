"""The gate as a shell runs it: what comes out of it is what went in, and what it does not know does not run."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cftools.remote import gate
from cftools.remote.gate import REFUSED, Gate, Rule, command_line, digest, encode, render
from cftools.remote.transport import Script

Ask = Callable[..., "subprocess.CompletedProcess[bytes]"]
ECHO = 'printf \'%s\\0\' "$0" "$@"\n'
ODD_ROOTS = [
    "/data",
    "/with space",
    "/q'uo\"te",
    "/$(touch canary)",
    "/@@root@@",
    "/st*r[a]?",
    "/드라마",
    "/back\\slash",
]
EVERY_BYTE = bytes(range(1, 256))
SHELLS = ["dash", "bash"]
RULES = [Rule("echo", ECHO, "way..."), Rule("two", ECHO, "root number"), Rule("none", ECHO, "")]


@pytest.fixture(params=SHELLS)
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Ask:
    """Runs a gate as sshd would, in a folder where hostile commands would leave their canary."""
    path = tmp_path / "gate" / "cftools-gate"
    path.parent.mkdir()
    (tmp_path / "here").mkdir()

    def run(
        made: Gate, command: bytes | None, *words: str, home: Path = Path("/nowhere")
    ) -> subprocess.CompletedProcess[bytes]:
        path.write_text(render(made))
        given = {} if command is None else {b"SSH_ORIGINAL_COMMAND": command}
        return subprocess.run(
            [request.param, str(path), *words],
            env={
                b"HOME": os.fsencode(home),
                b"PATH": os.environb[b"PATH"],
                b"SSH_CONNECTION": b"10.0.0.1 5 10.0.0.2 22",
            }
            | given,
            cwd=tmp_path / "here",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )

    return run


def made(*rules: Rule, roots: list[str] | None = None, rsync: bool = False) -> Gate:
    return Gate("test", roots or ["/data"], rules or RULES, rsync=rsync)


def arguments(done: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.split(b"\0")[:-1]


def test_arguments_of_any_bytes_come_through_as_they_are(ask: Ask) -> None:
    odd = [
        *(EVERY_BYTE, EVERY_BYTE[::-1], b"", b"\n", b"a\n\n", b"\n\na", b" ", b"a  b", b"%", b"%%", b"100%", b"%101"),
        *(b"\x017", b"\x0177", b"\\", b"\\0101", b"\\c", b"\\n", b"$(id)", b"`id`", b"*", b"~", b"-n", b"--", b"=x"),
        *(b"\x81\x82\x83\x84\x85\x86\x87\x88", b"\xff" * 255, "드라마".encode(), b"'", b'"', b"a\tb\rc"),
    ]
    script = Script("echo", ECHO, tuple(odd))
    assert arguments(ask(made(), command_line(script))) == [b"cftools-echo", *odd]
    assert arguments(ask(made(), command_line(Script("echo", ECHO)))) == [b"cftools-echo"]
    assert arguments(ask(made(), command_line(Script("echo", ECHO, (b"", b"", b""))))) == [
        b"cftools-echo",
        *([b""] * 3),
    ]


def test_each_single_byte_before_and_after_any_other_kind_comes_through(ask: Ask) -> None:
    around = [b"7%b\n%b0%b%%%b" % ((bytes([byte]),) * 4) for byte in EVERY_BYTE]
    assert arguments(ask(made(), command_line(Script("echo", ECHO, tuple(around)))))[1:] == around


def test_the_longest_name_comes_through_in_no_time(ask: Ask) -> None:
    name = b"\xff" * 3072
    assert arguments(ask(made(), command_line(Script("echo", ECHO, (name, name)))))[1:] == [name, name]


def test_a_command_line_is_harmless_to_any_shell() -> None:
    line = command_line(Script("echo", ECHO, (EVERY_BYTE, b"", b"$(id)", b"-rf")))
    assert re.fullmatch(rb"cftools-gate echo [0-9a-f]{16}( [0-9A-Za-z._/%-]+)*", line)
    said = subprocess.run([b"bash", b"-c", b"printf '%s ' " + line], capture_output=True, check=True).stdout
    assert said == line + b" "


def test_the_digest_follows_every_letter_of_the_script_but_the_blank_lines_around_it() -> None:
    assert digest("\na\n") == digest("a") == hashlib.sha256(b"a").hexdigest()[:16]
    assert digest("a ") != digest("a")
    assert encode(b"") == "%"


@pytest.mark.parametrize("root", ODD_ROOTS)
def test_a_root_is_taken_literally_whatever_its_name(ask: Ask, tmp_path: Path, root: str) -> None:
    one = made(roots=[root])
    assert arguments(ask(one, command_line(Script("two", ECHO, (root.encode(), b"5")))))[1:] == [root.encode(), b"5"]
    for other in [*ODD_ROOTS, "/", "/data/", "/data/x", "/dat", "data", "", "/stXra", "/str", "/st*ra", f"{root}/"]:
        if other != root:
            assert ask(one, command_line(Script("two", ECHO, (other.encode(), b"5")))).returncode == REFUSED
    assert not (tmp_path / "here" / "canary").exists()


@pytest.mark.parametrize(
    "command",
    [
        None,
        b"",
        b" ",
        b"sh",
        b"id",
        b"sh -c id",
        b"bash -i",
        b"/bin/sh",
        b"touch canary",
        b"cftools-gate",
        b"cftools-gate echo",
        b"cftools-gate  ",
        b"cftools-gate sh 0 -c id",
        b"cftools-gate Echo @",
        b"cftools-gate ech @",
        b"cftools-gate echo* @",
        b"cftools-gate * @",
        b"cftools-gate echo|two @",
        b"cftools-gate echo @;touch canary",
        b"cftools-gate echo @ ;touch canary",
        b"cftools-gate echo @ $(touch canary)",
        b"cftools-gate echo @ `touch canary`",
        b"cftools-gate echo @ a\ntouch canary",
        b"cftools-gate echo @ a\n",
        b"cftools-gate echo @ &touch canary&",
        b"cftools-gate echo @ |touch canary",
        b"cftools-gate echo @ >canary",
        b"cftools-gate echo @ 'a'",
        b'cftools-gate echo @ "a"',
        b"cftools-gate echo @ a\\b",
        b"cftools-gate echo @ ~",
        b"cftools-gate echo @ *",
        b"cftools-gate echo @ \xff",
        b"cftools-gate echo @ a\tb",
        b"cftools-gate\techo\t@",
        b"cftools-gate echo @ %000",
        b"cftools-gate echo @ a%000b",
        b"cftools-gate echo @ %1",
        b"cftools-gate echo @ %18",
        b"cftools-gate echo @ %400",
        b"cftools-gate echo @ %777",
        b"cftools-gate echo @ a%",
        b"cftools-gate echo @ %%",
        b"cftools-gate echo @ %%101",
        b"cftools-gate echo @ %x41",
        b"cftools-gate echo 0000000000000000 a",
        b"cftools-gate echo @0 a",
        b"cftools-gate echo % a",
        b"cftools-gate two @",
        b"cftools-gate two @ /data",
        b"cftools-gate two @ /data 5 5",
        b"cftools-gate two @ /data x",
        b"cftools-gate two @ /data -5",
        b"cftools-gate two @ /data %",
        b"cftools-gate two @ /data 5%012",
        b"cftools-gate two @ /data%012 5",
        b"cftools-gate two @ /data 99999999999999999999",
        b"cftools-gate none @ a",
        b"cftools-gate none @ %",
        b"./cftools-gate echo @ a",
        b"X=1 cftools-gate echo @ a",
        b"internal-sftp",
        b"/usr/lib/openssh/sftp-server",
        b"scp -t /data",
        b"scp -f /etc/passwd",
        b"rsync --server --sender -te.LsfxCIvu --files-from=- . /data/",
        b"rsync --server -te.LsfxCIvu . /data/",
        b"cftools-gate echo @ " + b"a" * 70_000,
        b"-c id",
        b"--",
    ],
)
def test_what_the_manager_does_not_send_does_not_run(ask: Ask, tmp_path: Path, command: bytes | None) -> None:
    if command is not None and b"@" in command:
        command = command.replace(b"@", digest(ECHO).encode(), 1)
    done = ask(made(), command)
    assert (done.returncode, done.stdout) == (REFUSED, b"")
    assert re.fullmatch(rb"cftools-gate: refused: [ -~]+\n", done.stderr)
    assert os.listdir(tmp_path / "here") == []  # noqa: PTH208 (a canary of any name)


def test_the_commands_above_would_run_if_only_they_were_right(ask: Ask) -> None:
    word = digest(ECHO)
    assert arguments(ask(made(), f"cftools-gate two {word} /data 5".encode()))[1:] == [b"/data", b"5"]
    assert arguments(ask(made(), f"cftools-gate none {word}".encode())) == [b"cftools-none"]
    assert arguments(ask(made(), f"cftools-gate echo {word} %101".encode()))[1:] == [b"A"]


def test_a_refusal_says_what_to_do(ask: Ask) -> None:
    assert b"restricted: true" in ask(made(), Script("echo", ECHO).command()).stderr
    assert b"another version" in ask(made(), command_line(Script("echo", ECHO + "#", ()))).stderr
    assert b"argument 2: not a number" in ask(made(), command_line(Script("two", ECHO, (b"/data", b"x")))).stderr
    assert b"argument is missing" in ask(made(), command_line(Script("two", ECHO, (b"/data",)))).stderr


@pytest.mark.parametrize("words", [["scripts"], ["rsync"], ["scripts", "rsync"], ["other"], ["rsync", "; id"]])
def test_the_words_in_authorized_keys_pick_what_a_key_may(ask: Ask, words: list[str]) -> None:
    right = not {"other", "; id"} & set(words)
    done = ask(made(rsync=True), command_line(Script("none", ECHO)), *words)
    assert (done.returncode == 0) == (right and "scripts" in words)
    sent = ask(made(rsync=True), b"rsync --server --sender -te.LsfxCIvu --files-from=- . /data/", *words)
    assert (sent.returncode == REFUSED) == (not right or "rsync" not in words)
    assert ask(made(), b"rsync --server --sender -te.LsfxCIvu --files-from=- . /data/", *words).returncode == REFUSED


@pytest.mark.parametrize("home", ["/data", "/data/vod", "", None])
def test_a_gate_that_writes_refuses_to_work_where_keys_could_be_overwritten(
    ask: Ask, tmp_path: Path, home: str | None
) -> None:
    writing = Gate("test", ["/data"], [*RULES, Rule("unlink", ECHO, "")])
    line = command_line(Script("none", ECHO))
    assert ask(writing, line).returncode == 0
    path = tmp_path / "gate" / "cftools-gate"
    environment = {"SSH_ORIGINAL_COMMAND": line.decode()} | ({} if home is None else {"HOME": home})
    done = subprocess.run(["sh", path], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (REFUSED, b"")
    below = Gate("test", [str(tmp_path / "gate")], [*RULES, Rule("unlink", ECHO, "")])
    assert b"lies below" in ask(below, line).stderr


@pytest.mark.parametrize("verb", sorted(gate.WRITING - {"pull"}))
def test_every_script_that_writes_makes_a_gate_that_writes(ask: Ask, verb: str) -> None:
    line = command_line(Script(verb, ECHO))
    writing = made(Rule(verb, ECHO, ""))
    assert ask(writing, line).returncode == 0
    assert ask(writing, line, home=Path("/data/vod")).returncode == REFUSED
    assert ask(made(Rule("look", ECHO, "")), command_line(Script("look", ECHO)), home=Path("/data")).returncode == 0


@pytest.mark.parametrize("verb", ["unlink", "remove", "trash", "empty"])
def test_the_head_tells_that_a_stolen_key_can_delete(verb: str) -> None:
    assert "and delete files there" in render(made(Rule(verb, ECHO, "")))
    assert "delete files" not in render(made(Rule("restore", ECHO, "")))


def test_a_home_below_a_root_by_way_of_a_link_is_seen_too(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "disk" / "vod").mkdir(parents=True)
    (tmp_path / "root").symlink_to("disk")
    (tmp_path / "home").symlink_to("disk/vod")
    for root, home in (("disk", "home"), ("root", "disk/vod"), ("root", "home"), ("root", "root/vod")):
        writing = Gate("test", [str(tmp_path / root)], [*RULES, Rule("unlink", ECHO, "")])
        done = ask(writing, command_line(Script("none", ECHO)), home=tmp_path / home)
        assert (done.returncode, done.stdout) == (REFUSED, b"")
        assert ask(writing, command_line(Script("none", ECHO)), home=tmp_path).returncode == 0


def test_a_script_sees_a_fixed_path_and_no_start_up_files(ask: Ask) -> None:
    look = Rule("none", 'printf "%s\\0" "$PATH" "$LC_ALL" "${ENV-unset}" "${BASH_ENV-unset}"', "")
    seen = arguments(ask(made(look), command_line(Script("none", look.text))))
    assert seen == [b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"C", b"unset", b"unset"]


def mutated(line: bytes, chance: random.Random) -> bytes:
    """The line with one to three small changes; never a NUL, which no command line can hold."""
    pieces = [
        b" ",
        b"%",
        b"/",
        b"..",
        b"/../",
        b"\n",
        b";id",
        b"$(touch canary)",
        b"`touch canary`",
        b"-",
        b"=",
        b"%057",
    ]
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(line) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            line = line[:place] + chance.choice(pieces) + line[place:]
        elif kind == 1:
            line = line[:place] + line[place + chance.randint(1, 4) :]
        elif kind == 2:
            line = line[:place] + bytes([chance.randint(1, 255)]) + line[place + 1 :]
        else:
            words = line.split(b" ")
            chance.shuffle(words) if chance.random() < 0.2 else words.append(chance.choice(words))
            line = b" ".join(words)
    return line


def decoded(word: bytes) -> bytes:
    return b"" if word == b"%" else re.sub(rb"%([0-7]{3})", lambda found: bytes([int(found[1], 8)]), word)


def test_a_mutilated_command_line_runs_only_as_what_it_literally_says(ask: Ask, tmp_path: Path) -> None:
    chance = random.Random(3)
    rule = Rule("unlink", ECHO, "root marker part base name number time file")
    good = (b"/data", b".m", b".cftools-part-0123456789abcdef", b"a b", b"s/a b", b"17", b"-5", b"/data/s/a b")
    line = command_line(Script("unlink", ECHO, good))
    ran = 0
    for _ in range(250):
        asked = mutated(line, chance)
        done = ask(made(rule), asked)
        assert done.returncode in (0, REFUSED), asked
        if done.returncode == REFUSED:
            assert done.stdout == b"", asked
            continue
        ran += 1
        name, *seen = arguments(done)
        words = asked.split()
        assert words[:3] == line.split()[:3]
        assert (name, seen) == (b"cftools-unlink", [decoded(word) for word in words[3:]]), asked
        root, marker, part, base, path, number, moment, file = seen
        assert root == b"/data"
        assert b"/" not in marker + base
        assert re.fullmatch(rb"\.cftools-part-[0-9a-f]{16}", part)
        assert not path.startswith(b"/")
        assert not {b"..", b"."} & {*path.split(b"/"), *file.split(b"/"), marker, base}
        assert file.startswith(b"/data/")
        assert re.fullmatch(rb"[0-9]+", number)
        assert re.fullmatch(rb"-?[0-9]+", moment)
    assert 5 < ran < 125, "the changes are too harsh, or the gate too lax, to show anything"
    assert os.listdir(tmp_path / "here") == []  # noqa: PTH208


def test_the_template_has_no_place_left_to_fill_in() -> None:
    assert "@@" not in render(made(rsync=True))
    assert gate.WORD == "cftools-gate"
