"""Topology files for tests: a module with actors, and files that name them, read or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.topology import Topology, TopologyError, load

MODULE = """
from __future__ import annotations
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
import msgspec
from mbactor import durations
from mbactor.errors import BadRequest
from mbactor.kernel.actor import Actor
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.spec import child

class Orders(Actor):
    host = "orders.example"
    def __init__(self, start: int = 0, channel: str = "web", every: durations.Duration = 1.0,
                 tags: list[str] | None = None, ratio: float = 1.0, on: bool = False) -> None: ...

@dataclass
class Point:
    x: int
    zip: str = ""

class Needs(Actor):
    def __init__(self, point: Point) -> None: ...

class Tree(Supervisor):
    children = (child(Orders),)

class Plain: ...

@dataclass
class Login:
    user: str
    password: str

class Gate(Actor):
    # Takes what may be secret.
    def __init__(self, key: str = "", pin: int = 0, mode: Literal["a", "b"] = "a", raw: bytes = b"",
                 login: Login | None = None, any_of: Any = None, every: durations.Duration = 1.0,
                 keys: list[str] | None = None, pause: dt.timedelta | None = None) -> None: ...

class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"

class Card(msgspec.Struct, tag="card", forbid_unknown_fields=True):
    number: int

class Cash(msgspec.Struct, tag="cash"):
    coins: int = 0

class Odd(msgspec.Struct):
    number: int
    def __post_init__(self):
        if self.number % 2 == 0:
            raise BadRequest(f"number: {self.number} given, an odd one expected")

class Takes(Actor):
    def __init__(self, odd: Odd | None = None, odds: list[Odd] | None = None) -> None: ...

class Typed(Actor):
    def __init__(self, one: Mode = Mode.FAST, maybe: Literal["a", "b"] | None = None, card: Card | None = None,
                 cards: Sequence[Card] = (), paid: Card | Cash | None = None, day: dt.date | None = None,
                 moment: dt.datetime | None = None, time: dt.time | None = None, id: uuid.UUID | None = None,
                 price: decimal.Decimal | None = None, raw: bytes = b"", pair: tuple[int, int] = (0, 0),
                 counts: dict[int, int] | None = None, pauses: list[dt.timedelta] | None = None,
                 modes: list[Mode] | None = None, deep: list[Annotated[list[int], msgspec.Meta(max_length=1)]] | None = None,
                 ) -> None: ...

class Rival(Actor):
    host = "orders.example"
"""


def read(folder: Path, text: str, environ: Mapping[str, str] | None = None, overlays: Sequence[str] = ()) -> Topology:
    """The topology of `tree.yaml` with this text, and of overlays with those."""
    (folder / "tree.yaml").write_text(dedent(text))
    over = [folder / f"over{n}.yaml" for n in range(1, len(overlays) + 1)]
    for path, content in zip(over, overlays, strict=True):
        path.write_text(dedent(content))
    return load(folder / "tree.yaml", environ or {}, over)


def children(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> SupervisorSpec:
    body = dedent(text).strip().replace("\n", "\n    ")
    return read(folder, f"version: 1\nsupervisor:\n  children:\n    {body}\n", environ).supervisor


def faults(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, overlays: Sequence[str] = ()
) -> list[str]:
    """The problems, without the folder's name."""
    with pytest.raises(TopologyError) as caught:
        read(folder, text, environ, overlays)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def child_faults(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    body = dedent(text).strip().replace("\n", "\n    ")
    return faults(folder, f"version: 1\nsupervisor:\n  children:\n    {body}\n", environ)
