"""The tables of supervision: who is restarted, with whom, and when.

Small pure functions over specifications and exits; `policy.decide` strings them together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import dropwhile

from mbactor.kernel.exit import Exit
from mbactor.supervisor.spec import Backoff, Restart, Strategy, SupervisorSpec
from mbactor.supervisor.state import ChildState

TOLD_PACE = Backoff(initial=0.010, maximum=1.0, factor=2, jitter=0)
"""The pace of a crash whose asker was told of it, for a child without a backoff of its own."""


def restarts(restart: Restart, exit: Exit) -> bool:
    """Whether a child that ended by itself in this way is restarted."""
    match restart:
        case "permanent":
            return True
        case "transient":
            return not exit.clean
        case "temporary":
            return False


def charge(spent: tuple[float, ...], now: float, within: float) -> tuple[float, ...]:
    """The restarts that count now, this one included; one exactly `within` old still counts. The oldest come first."""
    for gone, moment in enumerate(spent):
        if now - moment <= within:
            return (*spent[gone:], now)
    return (now,)


def group(strategy: Strategy, children: Iterable[ChildState], id: str) -> tuple[ChildState, ...]:
    """The children that are restarted together with `id`, which is one of them."""
    match strategy:
        case "one_for_all":
            return tuple(children)
        case "one_for_one":
            return tuple(child for child in children if child.id == id)
        case "rest_for_one":
            return tuple(dropwhile(lambda child: child.id != id, children))


def pace(child: ChildState, *, charged: bool) -> Backoff | None:
    """What delays the restart; nothing delays a charged one of a child without a backoff."""
    return child.spec.backoff or (None if charged else TOLD_PACE)


def attempts(child: ChildState, now: float) -> int:
    """How many restarts in a row went before, for a child that had been running: it starts again from 0
    once it ran for as long as its longest delay.
    """
    longest = (child.spec.backoff or TOLD_PACE).maximum
    return 0 if now - child.started_at >= longest else child.attempts


def completes(spec: SupervisorSpec, children: Iterable[ChildState], child: ChildState, exit: Exit) -> bool:
    """Whether this end of a child that is not restarted ends the supervisor too (auto_shutdown)."""
    if not child.spec.significant or exit.kind == "gave_up":
        return False
    match spec.auto_shutdown:
        case "never":
            return False
        case "any_significant":
            return True
        case "all_significant":
            others = (other for other in children if other.spec.significant and other.id != child.id)
            return not any(active(other) or other.unjudged is not None for other in others)


def active(child: ChildState) -> bool:
    """Running, or about to."""
    return child.status in {"running", "starting", "restarting"}
