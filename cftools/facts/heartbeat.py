"""Whether a server can be used: one short check."""

from __future__ import annotations

import time

from cftools.config.servers import ServerSettings
from cftools.model.rows import Heartbeat, Role
from cftools.remote.transport import RemoteFault, Script, Transport

CHECK = r"""
for root in "$@"; do
  cd -- "$root" 2>/dev/null || { printf '%s: not a folder that can be entered\n' "$root"; exit 3; }
done
printf 'alive\n'
"""


def check(transport: Transport, settings: ServerSettings, timeout: float) -> Heartbeat:
    """Asks one server, which has ``timeout`` seconds for all of it, connecting included."""
    role: Role = "source" if settings.role == "source" else "destination"
    started = time.monotonic()

    def answer(error: str) -> Heartbeat:
        return Heartbeat(settings.name, role, not error, round((time.monotonic() - started) * 1000), error)

    try:
        roots = tuple(root.encode() for root in settings.roots)
        reply = transport.call(Script("heartbeat", CHECK, roots), limit=timeout)
    except RemoteFault as fault:
        return answer(fault.detail)
    text = reply.out.decode(errors="replace").strip()
    return answer("" if reply.status == 0 and text == "alive" else text or reply.complaint())
