"""IP addresses in their one order: by number, IPv4 before IPv6."""

from __future__ import annotations

from ipaddress import ip_address

AddressKey = tuple[int, int]


def address_key(address: str) -> AddressKey:
    """The sort key of an address: 10.0.0.9 before 10.0.0.10, IPv4 before IPv6. Raises ValueError for anything else."""
    parsed = ip_address(address)
    return parsed.version, int(parsed)
