"""Where a copy goes: the rooms of the destinations and the waves of the sources.

The rule in plain words. A source makes one copy at a time, so the copies planned for it are its queue, and the place
in the queue is the *wave*: the first copies of all sources run at the same time, then the second ones, and so on.
Copies of earlier plans that wait for a source stand at the head of its queue; a source that is copying now gets
nothing in this plan.

A file goes to the source with the shortest queue among those that have it (the earlier one in the node's order when
queues are equal), so sources are used evenly. For that source, a destination is *free* when it has room for the file,
receives nothing right now, and the pair does not rest after a failure.

- With at least as many free destinations as there are free sources, one that nobody feeds in this wave takes the
  file: there always is one, because the other sources of the wave feed one each at most.
- With fewer, destinations are shared, those that receive right now included: the one with the fewest copies at that
  time takes it.

A free destination on which a part of the file lies already comes first, to carry on with it. Among equals,
``most-free`` takes the destination with the most room left after everything planned and running,
``round-robin`` the next in numeric order of the addresses. When this source can reach no destination with room, the
source with the next shortest queue tries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence

from cftools.model.addresses import address_key
from cftools.plans.values import CopyPolicy, PlanServer, Running


class Placement:
    """The plan so far. Sources and destinations are numbers: positions in ``sources`` and ``destinations``."""

    def __init__(
        self,
        sources: Sequence[PlanServer],
        destinations: Sequence[PlanServer],
        policy: CopyPolicy,
        running: Sequence[Running],
    ) -> None:
        """``sources`` are the free ones; ``destinations`` those that may be written to at all."""
        self.destinations = sorted(destinations, key=lambda server: address_key(server.address))
        self._round_robin = policy.spread == "round-robin"
        self._room = [policy.target_percent * each.capacity // 100 - each.used for each in self.destinations]
        self._receiving = [0] * len(self.destinations)
        self._waves: list[dict[int, int]] = []
        self._queue = [0] * len(sources)
        source_at = {source.name: position for position, source in enumerate(sources)}
        destination_at = {destination.name: position for position, destination in enumerate(self.destinations)}
        self._at = destination_at
        for copy in running:
            self._start_with(copy, source_at.get(copy.source), destination_at.get(copy.destination))
        self._resting: list[set[int]] = [set() for _ in sources]
        for source, destination in policy.cooling:
            if source in source_at and destination in destination_at:
                self._resting[source_at[source]].add(destination_at[destination])
        self._by_room = sorted((-room, place) for place, room in enumerate(self._room) if not self._receiving[place])
        self._shared = [place for place, count in enumerate(self._receiving) if count]
        self._next = destination_at.get(policy.last_destination, -1) + 1
        self.most_room = self._most_room()

    def _start_with(self, copy: Running, source: int | None, destination: int | None) -> None:
        if destination is not None:
            self._room[destination] -= copy.size
            self._receiving[destination] += copy.state == "working"
        if source is not None and copy.state == "ready":
            if destination is not None:
                loads = self._wave(self._queue[source])
                loads[destination] = loads.get(destination, 0) + 1
            self._queue[source] += 1

    def place(self, size: int, offers: Sequence[int], begun: str = "") -> tuple[int, int] | str:
        """Plans one copy of ``size`` bytes from one of the sources ``offers`` (ascending).

        ``begun``: the destination that has a part of it, or empty. Returns source and destination, or the reason why
        there is none.
        """
        if size > self.most_room:
            return "no-room"
        for source in sorted(offers, key=self._queue.__getitem__) if len(offers) > 1 else offers:
            destination = self._choose(size, source, self._at.get(begun))
            if destination is not None:
                self._commit(size, source, destination)
                return source, destination
        return "pair-cooling"

    def _choose(self, size: int, source: int, begun: int | None) -> int | None:
        loads = self._wave(self._queue[source])
        resting = self._resting[source]

        def takes(place: int) -> bool:
            usable = place not in loads and place not in resting and not self._receiving[place]
            return usable and self._room[place] >= size

        if begun is not None and takes(begun):
            return begun
        reach = bisect_right(self._by_room, (-size, len(self._room)))
        lost = sum(self._room[place] >= size and not self._receiving[place] for place in resting)
        if reach - lost >= len(self._queue):  # the others of the wave feed one each, so one is left; no need to sort
            order = self._in_turn() if self._round_robin else (place for _, place in self._by_room)
            return next(place for place in order if takes(place))
        free = [place for _, place in self._by_room[:reach] if place not in resting]
        shared = [place for place in self._shared if self._room[place] >= size and place not in resting]
        return min(
            free + shared,
            key=lambda place: (loads.get(place, 0) + self._receiving[place], self._preference(place), place),
            default=None,
        )

    def _in_turn(self) -> Iterator[int]:
        return (place % len(self._room) for place in range(self._next, self._next + len(self._room)))

    def _preference(self, place: int) -> int:
        """The smaller, the rather."""
        return (place - self._next) % len(self._room) if self._round_robin else -self._room[place]

    def _commit(self, size: int, source: int, destination: int) -> None:
        loads = self._wave(self._queue[source])
        loads[destination] = loads.get(destination, 0) + 1
        self._queue[source] += 1
        self._next = (destination + 1) % len(self._room)
        before = self._room[destination]
        self._room[destination] = before - size
        if not self._receiving[destination]:
            del self._by_room[bisect_left(self._by_room, (-before, destination))]
            insort(self._by_room, (size - before, destination))
        self.most_room = self._most_room()

    def _wave(self, number: int) -> dict[int, int]:
        while len(self._waves) <= number:
            self._waves.append({})
        return self._waves[number]

    def _most_room(self) -> int:
        """Bytes that the emptiest destination still takes; larger files go nowhere."""
        free = -self._by_room[0][0] if self._by_room else -1
        return max([free, *(self._room[place] for place in self._shared)])
