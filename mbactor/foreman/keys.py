"""Flow keys and step keys: `{shard}-{id}-{token}`.

    parse_key("1-42-0123456789abcdef") == Key(1, 42, "0123456789abcdef")

A key is a capability: whoever holds it may do anything with that one flow. The token is 64 random bits
and never looked up alone; a wrong token and an unknown id are the same 404. Logs, spans and metrics
carry only the correlation id `{shard}-{id}`.
"""

from __future__ import annotations

import os
import re
import secrets
from typing import Literal, NamedTuple

from mbactor.errors import FlowNotFound, InvalidKey

TOKEN_LENGTH = 16

KeyKind = Literal["flow", "step"]


class Key(NamedTuple):
    """A flow key or step key, taken apart. `str(key)` is the text again."""

    shard: int
    id: int
    token: str

    def __str__(self) -> str:
        return key_text(self.shard, self.id, self.token)

    @property
    def correlation_id(self) -> str:
        """The part that may be logged: it opens nothing."""
        return f"{self.shard}-{self.id}"


def key_text(shard: int, id: int, token: str) -> str:
    """The key as its holders have it."""
    return f"{shard}-{id}-{token}"


def parse_key(text: str, kind: KeyKind = "flow") -> Key:
    """The key in `text`; InvalidKey (400) where it is none. Whether it exists is for the store to say."""
    parts = str(text).split("-", 2)
    numbers = len(parts) == 3 and _is_number(parts[0]) and _is_number(parts[1]) and int(parts[0]) >= 1
    if not numbers or not _TOKEN.fullmatch(parts[2]):
        short = len(parts) == 2 and all(map(_is_number, parts))
        told_by = f"`mbactor flows list --search {text}`" if kind == "flow" else "the history of its flow"
        known = f"; logs leave the token out, {told_by} tells it" if short else ""
        raise InvalidKey(f"{text!r} is no {kind} key; expected shard-id-token such as 1-42-0123456789abcdef{known}")
    return Key(int(parts[0]), int(parts[1]), parts[2])


_TOKEN = re.compile(r"[0-9a-f]{16}")


def _is_number(text: str) -> bool:
    # Ids are 64-bit in every database: a longer number could not even be bound to a statement.
    return text.isascii() and text.isdigit() and len(text) <= 18


_TOKENS_AT_ONCE = 256
_drawn: list[str] = []


def new_token() -> str:
    """64 random bits, as 16 hexadecimal digits."""
    # A trip to the operating system's generator costs as much as the rest of a step's bookkeeping.
    if not _drawn:
        _drawn.extend(_draw(_TOKENS_AT_ONCE))
    return _drawn.pop()


def new_tokens(count: int) -> list[str]:
    """Many tokens for the price of one trip to the operating system, or of none."""
    if count > _TOKENS_AT_ONCE:
        return _draw(count)
    return [new_token() for _ in range(count)]


def _draw(count: int) -> list[str]:
    text = secrets.token_hex(TOKEN_LENGTH // 2 * count)
    return [text[i : i + TOKEN_LENGTH] for i in range(0, len(text), TOKEN_LENGTH)]


# A forked process must not deal the tokens that its parent deals.
os.register_at_fork(after_in_child=_drawn.clear)


def not_found(kind: KeyKind, key: Key) -> FlowNotFound:
    """The one answer for an unknown id and for a wrong token: it tells nothing of what exists."""
    other = "a step's" if kind == "flow" else "a flow's (its history has those of its steps)"
    why = f"it was removed, or the key is {other}, not whole, or of another database"
    return FlowNotFound(f"no {kind} has this key ({key.correlation_id}-...): {why}")
