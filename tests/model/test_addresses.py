"""Addresses sort by number."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools.model.addresses import address_key


def test_addresses_sort_by_number_and_version_four_first() -> None:
    ordered = ["9.255.255.255", "10.0.0.9", "10.0.0.10", "125.159.40.3", "255.255.255.255", "::1", "::a", "fe80::1"]
    shuffled = ordered[3:] + ordered[:3]
    assert sorted(shuffled, key=address_key) == ordered


@given(st.lists(st.integers(0, 2**32 - 1)), st.lists(st.integers(0, 2**128 - 1)))
def test_the_order_is_that_of_the_numbers(fours: list[int], sixes: list[int]) -> None:
    addresses = [str(IPv6Address(number)) for number in sixes] + [str(IPv4Address(number)) for number in fours]
    expected = [str(IPv4Address(number)) for number in sorted(fours)]
    expected += [str(IPv6Address(number)) for number in sorted(sixes)]
    assert sorted(addresses, key=address_key) == expected


def test_two_spellings_of_one_address_are_one() -> None:
    assert address_key("FE80:0:0::1") == address_key("fe80::1")


@pytest.mark.parametrize(
    "text", ["", "edge1", "10.0.0", "10.0.0.256", "10.0.0.1 ", "010.0.0.1", "10.0.0.1/24", "1.2.3.4.5"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        address_key(text)
