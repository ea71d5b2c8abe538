"""Puts fragments together again, within bounds. Pure: no clock, no bus.

    reassembly = Reassembly[Delivery](Bounds())
    for event in reassembly.add(key, sender, (3, 8), body, delivery, deadline):
        ...                              # Pull: ask for more; Whole: here it is; Refused: tell its sender

A body is given out whole and unchanged, or not at all:

- Only the first fragment begins a message; it says of how many fragments and of what length it is. One that contradicts
  that ends the message, and what comes of it later is dropped.
- One that is here already is dropped. A sender that was cut off, and sends its message again, begins with the first
  and is told how far it may go.
- A body above `Bounds.body` is refused at its first fragment (413), one for which there is no room now as well (503).
- The receiver pulls. Not more than `Bounds.coming` bytes are on their way at a time, of all messages together: the
  broker's buffer does not run over, and cut the connection, while a process does not read. Messages take turns.
- A process of which nothing comes for `QUIET` sweeps, though it was asked, leaves its turns to others until something
  does: one that died while it sent much would keep all of them waiting. What it was asked for is not counted meanwhile,
  up to `LENT` times those bytes.
- What is not continued for `Bounds.silent` sweeps, or is not complete at its deadline, or after `Bounds.lasts` sweeps,
  is given up. Sweeps count, not seconds: a process that stood still has not been able to read either.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from io import BytesIO
from typing import Generic, TypeVar

from mbactor.errors import BadRequest, BudgetSpent, InvalidSpec, MbactorError, MessageTooLarge, Unavailable

T = TypeVar("T")

MAX_BODY = 1024 * 1024 * 1024
"""Bytes of a body, unless something else is set."""
_ROOM = 256 * 1024 * 1024
"""Bytes that one sender has room for, however small the largest body is."""
LEAST = 1024
"""Bytes that each fragment but the last has at least: what is kept for a message is in proportion to its body."""
SWEEP = 1.0
"""Seconds between sweeps."""
QUIET = 2
"""Sweeps without anything from a process after which others have its turns."""
LENT = 3
"""How many times `Bounds.coming` may be asked of such processes, beside that of others."""
_ENDED = 4096
"""How many messages that have ended are remembered, so that what comes late does not begin them anew."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one process takes at a time. Sizes are bytes."""

    body: int = MAX_BODY
    all: int = 2 * MAX_BODY
    """Of all bodies that are not complete."""
    sender: int = MAX_BODY
    """Of those of one sender."""
    messages: int = 1024
    coming: int = 8 * 1024 * 1024
    """On their way, of all messages together."""
    ahead: int = 2 * 1024 * 1024
    """On their way, of one message."""
    silent: int = 10
    """Sweeps without a fragment that was asked for."""
    lasts: int = 900
    """Sweeps until a message is complete, which may have no deadline."""

    @classmethod
    def of(cls, body: int) -> Bounds:
        """For bodies of at most so many bytes: one sender has room for one at least, and all together for two."""
        if type(body) is not int or body < 1:
            raise InvalidSpec(f"max_body: {body!r} given, a number of bytes above 0 expected")
        room = max(body, _ROOM)
        return cls(body=body, all=2 * room, sender=room)


@dataclass(frozen=True, slots=True)
class Pull(Generic[T]):
    """Ask for the fragments up to this number. `first` is what came with the first fragment."""

    first: T
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class Whole(Generic[T]):
    """The body is complete."""

    first: T
    body: bytes
    deadline: float


@dataclass(frozen=True, slots=True)
class Refused(Generic[T]):
    """The message will not be complete; its sender is to be told, and what comes of it later is dropped."""

    first: T
    error: MbactorError


Event = Pull[T] | Whole[T] | Refused[T]


class _Entry(Generic[T]):
    """One message of which the first fragment is here."""

    __slots__ = (
        "age",
        "buffer",
        "chunk",
        "deadline",
        "early",
        "first",
        "next",
        "of",
        "process",
        "pulled",
        "room",
        "sender",
        "silent",
        "waits",
    )

    def __init__(self, first: T, sender: str, process: str, of: int, chunk: int, room: int, deadline: float) -> None:
        self.first = first
        self.sender = sender
        self.process = process
        self.of = of
        self.chunk = chunk
        self.room = room
        self.deadline = deadline
        self.buffer = BytesIO()
        self.next = 1
        self.early: set[int] = set()
        """Those that are here although one before is not."""
        self.pulled = 1
        self.silent = self.age = 0
        self.waits = False
        """Whether it stands in line for its turn."""

    @property
    def received(self) -> int:
        return self.next - 1 + len(self.early)

    @property
    def coming(self) -> int:
        return (self.pulled - self.received) * self.chunk

    def wrong(self, number: int, of: int, size: int) -> str:
        """What contradicts what is known of the message, or nothing."""
        if of != self.of:
            return f"fragment {number} says that there are {of}; the first said {self.of}"
        if not 1 <= number <= of:
            return f"fragment {number}: expected 1 to {of}"
        if number < of and size != self.chunk:
            return f"fragment {number} of {of} has {size} bytes; the first had {self.chunk}"
        if number == of and not 0 < size <= self.chunk:
            return f"fragment {number} of {of}, the last, has {size} bytes; expected 1 to {self.chunk}"
        return ""

    def has(self, number: int) -> bool:
        return number < self.next or number in self.early

    def put(self, number: int, body: bytes | memoryview) -> None:
        self.buffer.seek((number - 1) * self.chunk)
        self.buffer.write(body)
        self.early.add(number)
        while self.next in self.early:
            self.early.remove(self.next)
            self.next += 1
        self.pulled = max(self.pulled, self.received)
        self.silent = 0


class Reassembly(Generic[T]):
    """The messages of which a part is here. `held` is how many bytes they have, or will have when they are complete.

    Costs a copy of each fragment into the buffer that becomes the body, and no further copy of that.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.held = 0
        self._entries: dict[str, _Entry[T]] = {}
        self._ended: dict[str, tuple[int, bool]] = {}
        self._of_sender: dict[str, int] = {}
        self._coming = 0
        self._quiet: dict[str, int] = {}
        """Of which processes nothing has come, though it was asked, and for how many sweeps."""
        self._lent = 0
        """As `_coming`, of those for which that is `QUIET` or more."""
        self._line: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        key: str,
        sender: str,
        fragment: tuple[int, int],
        body: bytes | memoryview,
        first: T,
        deadline: float,
        process: str = "",
    ) -> list[Event[T]]:
        """Take fragment (number, of how many) of the message `key`; number 0 says that no more will come.

        `first` is kept with the first fragment, and comes back with each event of the message. `process` is the one of
        the sender's that it comes from.
        """
        number, of = fragment
        process = process or sender
        self._hear(process)
        if self._is_late(key, number):
            return []
        entry = self._entries.get(key)
        if number == 0:
            return [] if entry is None else self._end(key, for_good=True)
        if entry is None:
            error = self._why_not(sender, number, of, len(body))
            if error is not None:
                self._remember(key, for_good=error.status != Unavailable.status or number != 1)
                return [Refused(first, error)]
            entry = self._begin(key, sender, process, of, len(body), first, deadline)
            entry.put(1, body)
            pulls = self._turns(key, entry)
            # Its sender is told that it has begun, also where it is not its turn.
            return [*pulls] if entry.pulled > 1 else [Pull(first, 1, of), *pulls]
        wrong = entry.wrong(number, of, len(body))
        if wrong:
            return self._refuse(key, _not_taken(BadRequest(wrong)), for_good=True)
        if entry.has(number):
            entry.silent = 0
            return [Pull(entry.first, entry.pulled, of)] if number == 1 else []
        size = (of - 1) * entry.chunk + len(body)
        if number == of and size > self.bounds.body:
            return self._refuse(key, too_large(size, self.bounds.body), for_good=True)
        if entry.coming:
            self._coming -= entry.chunk
        entry.put(number, body)
        if entry.received == of:
            return [Whole(entry.first, entry.buffer.getvalue(), entry.deadline), *self._end(key, for_good=True)]
        return [*self._turns(key, entry)]

    def sweep(self, now: float) -> list[Event[T]]:
        """Give up what is overdue; to be called every `SWEEP` seconds. Who waits is told that it still may send."""
        events: list[Event[T]] = []
        self._listen()
        for key, entry in list(self._entries.items()):
            entry.age += 1
            if entry.coming or self._is_quiet(entry.process):
                entry.silent += 1
            if entry.deadline <= now:
                text = f"{entry.received} of {entry.of} fragments had come when the time budget was spent"
                events += self._refuse(key, _not_taken(BudgetSpent(text)))
            elif entry.silent > self.bounds.silent:
                text = f"{entry.received} of {entry.of} fragments came, and then no more for {entry.silent} s"
                events += self._refuse(key, Unavailable(text))
            elif entry.age > self.bounds.lasts:
                text = f"{entry.received} of {entry.of} fragments had come after {entry.age} s"
                events += self._refuse(key, Unavailable(text))
            elif entry.silent > 1 or entry.waits:
                events.append(Pull(entry.first, entry.pulled, entry.of))
        kept = self._ended.items()
        self._ended = {key: (age + 1, final) for key, (age, final) in kept if age < self.bounds.silent}
        return [*events, *self._next()]

    def refuse(self, key: str, error: MbactorError) -> list[Event[T]]:
        """Give up a message, where there is some of it."""
        return self._refuse(key, error) if key in self._entries else []

    def forgive(self, key: str) -> None:
        """A message was complete, and is not taken now: it may be sent again."""
        if key in self._ended:
            self._remember(key)

    def clear(self) -> list[Refused[T]]:
        """Nothing of what is here will be continued: the bus was cut."""
        refused = []
        for key, entry in self._entries.items():
            self._remember(key)
            text = f"{entry.received} of {entry.of} fragments had come when the taker was cut off from the others"
            refused.append(Refused(entry.first, Unavailable(text)))
        self._entries.clear()
        self._of_sender.clear()
        self._line.clear()
        self._quiet.clear()
        self.held = self._coming = self._lent = 0
        return refused

    def _why_not(self, sender: str, number: int, of: int, chunk: int) -> MbactorError | None:
        """Why a message cannot begin with this fragment."""
        if number != 1:
            return Unavailable(f"fragment {number} of {of} came, and the first is not here")
        if of < 2 or chunk < LEAST:
            return _not_taken(
                BadRequest(f"a first fragment of {chunk} bytes, of {of}: expected {LEAST} bytes, 2 or more")
            )
        least, room = (of - 1) * chunk + 1, self._room(of, chunk)
        if least > self.bounds.body:
            return too_large(least, self.bounds.body)
        if len(self._entries) >= self.bounds.messages:
            return Unavailable(
                f"{len(self._entries)} messages in fragments are being received; send again after a pause"
            )
        mine = self._of_sender.get(sender, 0)
        if self.held + room > self.bounds.all or mine + room > self.bounds.sender:
            text = f"no room for {room} bytes now: {self.held} bytes are being received, {mine} of them from {sender}"
            return Unavailable(f"{text}; send again after a pause")
        return None

    def _begin(self, key: str, sender: str, process: str, of: int, chunk: int, first: T, deadline: float) -> _Entry[T]:
        room = self._room(of, chunk)
        entry = self._entries[key] = _Entry(first, sender, process, of, chunk, room, deadline)
        self._ended.pop(key, None)
        self.held += room
        self._of_sender[sender] = self._of_sender.get(sender, 0) + room
        return entry

    def _room(self, of: int, chunk: int) -> int:
        return min(of * chunk, self.bounds.body)

    def _refuse(self, key: str, error: MbactorError, *, for_good: bool = False) -> list[Event[T]]:
        return [Refused(self._entries[key].first, error), *self._end(key, for_good=for_good)]

    def _end(self, key: str, *, for_good: bool = False) -> list[Event[T]]:
        entry = self._entries.pop(key)
        self.held -= entry.room
        if self._is_quiet(entry.process):
            self._lent -= entry.coming
        else:
            self._coming -= entry.coming
        self._of_sender[entry.sender] -= entry.room
        if not self._of_sender[entry.sender]:
            del self._of_sender[entry.sender]
        self._remember(key, for_good=for_good)
        return [*self._next()]

    def _is_late(self, key: str, number: int) -> bool:
        """What is sent again may begin again, unless it was complete or a lie."""
        found = self._ended.get(key)
        return found is not None and (number != 1 or found[1])

    def _remember(self, key: str, *, for_good: bool = False) -> None:
        self._ended[key] = (0, for_good)
        if len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def _is_quiet(self, process: str) -> bool:
        return self._quiet.get(process, 0) >= QUIET

    def _hear(self, process: str) -> None:
        """Something has come of a process."""
        if self._quiet.pop(process, 0) >= QUIET:
            coming = sum(entry.coming for entry in self._entries.values() if entry.process == process)
            self._lent -= coming
            self._coming += coming

    def _listen(self) -> None:
        """Another sweep is over in which nothing has come of some, though it was asked."""
        coming: dict[str, int] = {}
        for entry in self._entries.values():
            coming[entry.process] = coming.get(entry.process, 0) + entry.coming
        self._quiet = {process: sweeps for process, sweeps in self._quiet.items() if process in coming}
        for process, size in coming.items():
            sweeps = self._quiet.get(process, 0) + 1
            if not size:
                self._quiet.pop(process, None)  # what it was asked for was given up: it may have others
            elif sweeps != QUIET:
                self._quiet[process] = sweeps
            elif self._lent + size <= LENT * self.bounds.coming:
                self._quiet[process] = sweeps
                self._coming -= size
                self._lent += size

    def _turns(self, key: str, entry: _Entry[T]) -> list[Pull[T]]:
        """Let a message that has little on its way stand in line, and serve the line."""
        if not entry.waits and entry.pulled < entry.of and entry.coming * 2 <= self.bounds.ahead:
            entry.waits = True
            self._line.append(key)
        return self._next()

    def _next(self) -> list[Pull[T]]:
        pulls, passed = [], []
        while self._line and self._coming < self.bounds.coming:
            key = self._line.popleft()
            entry = self._entries.get(key)
            if entry is None:
                continue
            if self._is_quiet(entry.process):
                passed.append(key)
                continue
            entry.waits = False
            free = min(self.bounds.ahead - entry.coming, self.bounds.coming - self._coming)
            more = min(max(1, free // entry.chunk), entry.of - entry.pulled)
            entry.pulled += more
            self._coming += more * entry.chunk
            pulls.append(Pull(entry.first, entry.pulled, entry.of))
        self._line.extendleft(reversed(passed))
        return pulls


def too_large(size: int, limit: int) -> MessageTooLarge:
    """The error of a body above `Bounds.body`."""
    return MessageTooLarge(size, limit, "a system takes and gives at most {} (its setting max_body)")


def _not_taken(error: MbactorError) -> MbactorError:
    error.taken = "no"
    return error
