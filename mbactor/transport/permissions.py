"""What a connection may publish, as the broker tells it; and whether that admits a subject. Pure.

An ask within one process does not pass the broker. Where the broker restricts the process's connection, the same rules
are applied to it here, so that it makes no difference where an actor runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from mbactor.errors import BadRequest
from mbactor.transport.bus import matches


@dataclass(frozen=True, slots=True)
class Permissions:
    """Patterns of subjects: those that are allowed (None: all), less those that are denied."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    @property
    def restricts(self) -> bool:
        return self.allow is not None or bool(self.deny)

    def admit(self, subject: str) -> bool:
        """Whether a message may be published to the subject."""
        return _admit(self, subject)


@lru_cache(maxsize=4096)
def _admit(permissions: Permissions, subject: str) -> bool:
    # The same few subjects come again with every ask.
    tokens = tuple(subject.split("."))

    def named_in(patterns: tuple[str, ...]) -> bool:
        return any(matches(tuple(pattern.split(".")), tokens) for pattern in patterns)

    return not named_in(permissions.deny) and (permissions.allow is None or named_in(permissions.allow))


class _Rules(msgspec.Struct):
    allow: list[str] | None = None
    deny: list[str] | None = None


class _User(msgspec.Struct):
    publish: _Rules | None = None


class _Data(msgspec.Struct):
    permissions: _User | None = None


class _Info(msgspec.Struct):
    data: _Data | None = None
    error: Any = None


def read(answer: bytes) -> Permissions:
    """What a NATS server answers to `$SYS.REQ.USER.INFO`. BadRequest where it is something else."""
    try:
        info = msgspec.json.decode(answer, type=_Info)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"the broker tells permissions in a form that is not known: {error}") from None
    if info.data is None:
        raise BadRequest(f"the broker does not tell what may be published: {info.error}")
    rules = info.data.permissions.publish if info.data.permissions is not None else None
    if rules is None:
        return Permissions()
    # A server that names neither restricts nothing; an empty list of what is allowed is left out by it as well.
    return Permissions(tuple(rules.allow) if rules.allow else None, tuple(rules.deny or ()))
