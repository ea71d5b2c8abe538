"""How the run of a task ended, judged by what came out of it and by the signals it had given.

ending(error, flow.signals, None).kind      # "completed", "parked", "retry" or "failed"
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mbactor.errors import MbactorError, ParkRefused
from mbactor.foreman.model.signals import Parked, Signals


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How one run of a task ended. `error` is set exactly where it failed."""

    kind: Literal["completed", "parked", "retry", "failed"]
    error: BaseException | None = None


_COMPLETED = Outcome("completed")


def ending(
    error: BaseException | None, signals: Signals, fault: ParkRefused | None, *, unwound: bool = False
) -> Outcome:
    """The outcome of a run that returned, or raised `error`. `fault`: a signal was refused, whether or not the task
    went on; `unwound`: it parked where it ran, in another process.
    """
    if error is None and fault is None and not unwound and signals.plain:
        return _COMPLETED
    own = _without_parks(error) or fault
    if own is not None:
        return Outcome("failed", own)
    park = signals.park
    unwound = unwound or error is not None
    if park is not None and not unwound:
        return _failed(f"{park.kind}() was swallowed; do not catch BaseException or return in finally")
    if park is None and unwound:
        return _failed("Parked was raised without interrupt() or subgraph(); call one of them instead")
    competing = signals.competing()
    if len(competing) > 1:
        return _failed(f"multiple competing control signals: {' and '.join(competing)}; a run may use one")
    if park is not None:
        return Outcome("parked")
    return Outcome("retry" if signals.retry_delay is not None else "completed")


def _failed(reason: str) -> Outcome:
    return Outcome("failed", MbactorError(reason))


def _without_parks(error: BaseException | None) -> BaseException | None:
    """What is left of the error beside parks; an only child is taken out of its groups."""
    if error is None or isinstance(error, Parked):
        return None
    if not isinstance(error, BaseExceptionGroup):
        return error
    parks, rest = error.split(Parked)
    if parks is None:
        return error
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest
