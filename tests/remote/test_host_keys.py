"""known_hosts is read as ssh reads it; ssh-keygen is the judge where it has a word."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from cftools.lab.keys import make_pair
from cftools.remote import host_keys
from cftools.remote.host_keys import CoveredByPattern, HostKey, KnownHosts
from cftools.remote.transport import RemoteFault


def key_of(path: Path) -> HostKey:
    """The public key beside a private one, made when missing."""
    make_pair(path, "test")
    kind, text = path.with_name(path.name + ".pub").read_text().split()[:2]
    return HostKey(kind, base64.b64decode(text))


def words(key: HostKey) -> str:
    return f"{key.kind} {base64.b64encode(key.blob).decode()}"


@pytest.fixture
def key(tmp_path: Path) -> HostKey:
    return key_of(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> HostKey:
    return key_of(tmp_path / "other")


@pytest.fixture
def rsa(tmp_path: Path) -> HostKey:
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", tmp_path / "rsa"], check=True)
    return key_of(tmp_path / "rsa")


def judged(text: str, name: str, key: HostKey) -> tuple[str, int]:
    return tuple(KnownHosts(text.encode()).judge(name, key))  # type: ignore[return-value]


@pytest.mark.system
def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(tmp_path: Path, key: HostKey, rsa: HostKey) -> None:
    for name, one in (("one", key), ("rsa", rsa)):
        shown = subprocess.run(
            ["ssh-keygen", "-lf", tmp_path / f"{name}.pub"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.split()[1] == one.fingerprint


def test_a_key_is_known_new_or_changed(key: HostKey, other: HostKey, rsa: HostKey) -> None:
    text = f"# edge servers\n\n10.0.0.9 {words(key)} a comment\n10.0.0.10 {words(rsa)}\n"
    assert judged(text, "10.0.0.9", key) == ("known", 3)
    assert judged(text, "10.0.0.9", other) == ("changed", 3)
    assert judged(text, "10.0.0.8", key) == ("new", 0)
    # Asked for the known type first, it shows another: it no longer has the known one.
    assert judged(text, "10.0.0.10", key) == ("changed", 4)


def test_one_of_several_keys_of_a_host_is_enough(key: HostKey, other: HostKey, rsa: HostKey) -> None:
    text = f"h {words(rsa)}\nh {words(other)}\nh {words(key)}\n"
    assert judged(text, "h", key) == ("known", 3)
    assert judged(text, "h", other) == ("known", 2)
    assert judged(f"h {words(rsa)}\nh {words(other)}\n", "h", key) == ("changed", 2)
    assert KnownHosts(text.encode()).kinds("h") == {"ssh-rsa", "ssh-ed25519"}


def test_a_revoked_key_is_refused_wherever_it_stands_and_an_authority_tells_nothing(
    key: HostKey, other: HostKey
) -> None:
    assert judged(f"h {words(key)}\n@revoked * {words(key)}\n", "h", key) == ("revoked", 2)
    assert judged(f"@revoked h {words(other)}\n", "h", key) == ("new", 0)
    assert judged(f"@cert-authority * {words(key)}\n", "h", key) == ("new", 0)
    assert judged(f"@unheard-of h {words(key)}\n", "h", key) == ("new", 0)


NAMES = {
    "plain": ("edge1", {"edge1", "EDGE1"}),
    "list": ("edge1,10.0.0.9,edge2", {"edge1", "EDGE1", "10.0.0.9", "edge2"}),
    "port": ("[10.0.0.9]:2222", {"[10.0.0.9]:2222"}),
    "IPv6 port": ("[fe80::1]:2222,fe80::1", {"[fe80::1]:2222", "fe80::1"}),
    "star": ("edge*", {"edge1", "edge2", "edge2.site", "EDGE1"}),
    "question mark": ("edge?", {"edge1", "edge2", "EDGE1"}),
    "but not": ("edge*,!edge2", {"edge1", "edge2.site", "EDGE1"}),
    "only not": ("!edge2", set()),
    "star in port": ("[10.0.0.*]:2222", {"[10.0.0.9]:2222"}),
    "brackets are no set": ("edge[12]", set()),
    "a dot is a dot": ("10.0.0,10x0.0.9", set()),
}
HOSTS = ["edge1", "EDGE1", "edge2", "edge2.site", "10.0.0.9", "[10.0.0.9]:2222", "fe80::1", "[fe80::1]:2222"]


@pytest.mark.system
@pytest.mark.parametrize("case", NAMES)
def test_the_field_of_hosts_is_read_as_ssh_keygen_reads_it(tmp_path: Path, key: HostKey, case: str) -> None:
    field, expected = NAMES[case]
    known = tmp_path / "known"
    known.write_text(f"{field} {words(key)}\n")
    found = {host for host in HOSTS if KnownHosts.read(known).about(host)}
    by_ssh = {
        host
        for host in HOSTS
        if subprocess.run(["ssh-keygen", "-F", host, "-f", known], capture_output=True, check=False).returncode == 0
    }
    assert found == by_ssh == expected


@pytest.mark.system
def test_hashed_hosts_are_found(tmp_path: Path, key: HostKey, other: HostKey) -> None:
    known = tmp_path / "known"
    known.write_text(f"edge1 {words(key)}\n[10.0.0.9]:2222 {words(other)}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], capture_output=True, check=True)
    assert "edge1" not in known.read_text()
    found = KnownHosts.read(known)
    assert found.judge("edge1", key) == ("known", 1)
    assert found.judge("Edge1", key) == ("known", 1)
    assert found.judge("[10.0.0.9]:2222", other) == ("known", 2)
    assert found.judge("10.0.0.9", other) == ("new", 0)


def test_lines_that_cannot_be_read_are_passed_over(key: HostKey) -> None:
    shifted = words(key).replace("ssh-ed25519", "ssh-rsa")
    damaged = words(key)[:-3]
    text = f"h\nh ssh-ed25519\nh 1024 35 1234567\nh {shifted}\nh {damaged}\n|1|x|y {words(key)}\n@revoked\n\x00\xff\n"
    assert judged(text, "h", key) == ("new", 0)
    assert judged(f"{text}h {words(key)}", "h", key) == ("known", 9)
    assert judged(f"\t h \t{words(key)}\r\n", "h", key) == ("known", 1)


def test_a_file_that_is_missing_or_no_file_knows_nothing(tmp_path: Path, key: HostKey) -> None:
    for path in (tmp_path / "none", Path("/dev/null"), tmp_path):
        assert KnownHosts.read(path).judge("h", key) == ("new", 0)


def test_known_types_are_asked_for_first() -> None:
    algorithms = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
    assert host_keys.known_first(algorithms, set()) == algorithms
    assert host_keys.known_first(algorithms, {"ssh-rsa"}) == [*algorithms[2:], *algorithms[:2]]
    assert host_keys.known_first(algorithms, {"ssh-dss", "ecdsa-sha2-nistp256"})[0] == "ecdsa-sha2-nistp256"


def test_what_is_not_known_is_refused_with_what_to_do(tmp_path: Path, key: HostKey, other: HostKey) -> None:
    known = tmp_path / "known"
    lines = {
        "": "unknown host key; compare and learn it with: cftools hosts scan --add (h is not in ",
        f"h {words(other)}\n": f"host key changed: ssh-ed25519 {key.fingerprint} of h is not the key of {known}:1; ",
        f"@revoked h {words(key)}\n": f"host key revoked: ssh-ed25519 {key.fingerprint} of h, see {known}:1",
    }
    for text, said in lines.items():
        known.write_text(text)
        with pytest.raises(RemoteFault) as caught:
            host_keys.check(known, "h", key, "edge1")
        assert (caught.value.kind, caught.value.server) == ("refused", "edge1")
        assert caught.value.detail.startswith(said)
        assert str(known) in caught.value.detail
    known.write_text(f"h {words(key)}\n")
    host_keys.check(known, "h", key, "edge1")


def test_a_hosts_keys_of_all_types_go_and_all_else_stays_byte_for_byte(
    key: HostKey, other: HostKey, rsa: HostKey
) -> None:
    keep = [f"# \xff comment\r\n\n@revoked h {words(key)}\n", f"  g  {words(key)}  x\nh\n"]
    text = f"{keep[0]}h {words(key)}\nh {words(rsa)}\n{keep[1]}H {words(other)}"
    assert KnownHosts(text.encode("latin-1")).without("h") == "".join(keep)[:-1].encode("latin-1")


def test_of_a_line_about_several_hosts_only_the_one_goes(key: HostKey) -> None:
    text = f" g,h,10.0.0.9 {words(key)} h\n!x,h {words(key)}\n"
    assert KnownHosts(text.encode()).without("h") == f" g,10.0.0.9 {words(key)} h\n".encode()


@pytest.mark.parametrize("field", ["h*", "h,?", "*,!g"])
def test_a_pattern_is_not_taken_apart(key: HostKey, field: str) -> None:
    with pytest.raises(CoveredByPattern) as caught:
        KnownHosts(f"\n{field} {words(key)}\n".encode()).without("h")
    assert caught.value.number == 2
