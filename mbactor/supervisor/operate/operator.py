"""What an operator may ask of a running system: plan, apply, stop, start and restart, as values that travel.

Each is a generator of answers; the last one ends it. `control` has them on a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mbactor import offload
from mbactor.errors import BadRequest
from mbactor.kernel.settings import environment
from mbactor.supervisor.operate.applying import ApplyFailed, Plan
from mbactor.supervisor.operate.by_name import Verb, operate
from mbactor.supervisor.operate.plan import Step

if TYPE_CHECKING:
    from mbactor.supervisor.system import ActorSystem
    from mbactor.supervisor.topology import Topology


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer to `{"plan": {}}`, and the first one to `{"apply": {}}`."""

    plan: Plan
    pid: int


@dataclass(frozen=True, slots=True)
class Course:
    """The further answers to `{"apply": {}}`: the step of this number (from 0) has begun, is done or has failed; or all
    are applied. The last two end it.
    """

    state: Literal["begun", "done", "failed", "applied"]
    step: int
    why: str | None = None


class Operator:
    """Plans and applies the file that the process runs, and stops and starts children by name."""

    def __init__(self, system: ActorSystem, file: Path, overlays: Sequence[Path] = ()) -> None:
        self._system = system
        self._file = file.absolute()
        self._overlays = tuple(path.absolute() for path in overlays)

    # --- the file ---------------------------------------------------------------------------------------

    async def plan(self, what: Any, pid: int) -> AsyncGenerator[Any]:
        """`what`: {"file": ..., "overlays": [...]}, both as they were where they are not given."""
        wanted = await self._load(what)
        yield Planned(_told(self._system.plan(wanted)), pid)

    async def apply(self, what: Any, pid: int) -> AsyncGenerator[Any]:
        """As `plan`; the plan is carried out. Whoever stops to listen ends it after the step that was begun."""
        wanted = await self._load(what)
        listener = _Listener(pid)
        applying = asyncio.ensure_future(self._system.apply(wanted, progress=listener))
        applying.add_done_callback(lambda _: listener.answers.put_nowait(None))
        try:
            while (answer := await listener.answers.get()) is not None:
                yield answer
        finally:
            if not applying.done():
                applying.cancel()
                await asyncio.wait([applying])
            _ = applying.cancelled() or applying.exception()  # which nobody may be there to be told any more
        try:
            plan = applying.result()
        except ApplyFailed as error:
            yield Course("failed", len(error.done), error.message)
            return
        self._overlays = wanted.overlays
        yield Course("applied", len(plan.steps))

    async def _load(self, what: Any) -> Topology:
        file, overlays = _file_of(what)
        # Importing and reading block, and a module may take its time.
        return await offload.run(
            _load, file or self._file, self._overlays if overlays is None else overlays, environment()
        )

    # --- children by name ---------------------------------------------------------------------------------

    async def operate(self, verb: Verb, name: Any) -> AsyncGenerator[Any]:
        """Whoever stops to listen does not stop what was begun."""
        if not isinstance(name, str) or not name:
            raise BadRequest(f"{verb}: {name!r} given, the id or the path of a child expected")
        yield await operate(verb, name, self._system.roots())


class _Listener:
    """Follows an apply, and keeps what is to be told of it."""

    def __init__(self, pid: int) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self._pid = pid
        self._number = -1

    def planned(self, plan: Plan) -> None:
        self.answers.put_nowait(Planned(_told(plan), self._pid))

    def begun(self, step: Step) -> None:  # noqa: ARG002 - they come in order
        self._number += 1
        self.answers.put_nowait(Course("begun", self._number))

    def done(self, step: Step) -> None:  # noqa: ARG002
        self.answers.put_nowait(Course("done", self._number))


def _told(plan: Plan) -> Plan:
    """A plan as it travels: for people, without the specifications."""
    return replace(plan, steps=tuple(replace(step, fields=(), wanted=None) for step in plan.steps))


def _load(file: Path, overlays: Sequence[Path], variables: Mapping[str, str]) -> Topology:
    from mbactor.supervisor.topology import load  # which needs YAML

    return load(file, variables, overlays)


def _file_of(what: Any) -> tuple[Path | None, tuple[Path, ...] | None]:
    if not isinstance(what, dict) or not what.keys() <= {"file", "overlays"}:
        raise BadRequest('an object with "file" and "overlays", each of which may be left out, expected')
    file, overlays = what.get("file"), what.get("overlays")
    paths = [*([] if file is None else [file]), *([] if overlays is None else _listed(overlays))]
    for path in paths:
        if not isinstance(path, str) or not Path(path).is_absolute():
            raise BadRequest(f"{path!r} given, an absolute path expected")
    return None if file is None else Path(file), None if overlays is None else tuple(map(Path, overlays))


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"overlays: {value!r} given, a list of paths expected")
    return value
