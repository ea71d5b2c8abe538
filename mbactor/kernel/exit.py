"""How an actor, or a supervisor, ended.

`Exit("failed", error)` and its like are what supervisors judge, what `on_stop` is told and what a
watcher receives. Kinds: `normal` (it ended itself), `shutdown` (it was asked to), `failed` (it raised),
`killed` (it was not given, or did not use, the time to stop), `gave_up` (a supervisor's restart budget
is spent; our own class, so that it is never mistaken for a clean end as OTP's `shutdown` is).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mbactor.errors import error_told

ExitKind = Literal["normal", "shutdown", "failed", "killed", "gave_up"]


class Exit(Struct, frozen=True):
    """The way a run ended. `told` says that somebody got the error as the answer to an ask: such a crash
    is paced by backoff and not charged to the restart budget.
    """

    kind: ExitKind
    error: BaseException | None = None
    told: bool = False

    @property
    def clean(self) -> bool:
        """Normal and shutdown are clean; all else is abnormal."""
        return self.kind in {"normal", "shutdown"}

    def __str__(self) -> str:
        if self.error is None:
            return self.kind
        return f"{self.kind}: {error_told(self.error)}"


NORMAL = Exit("normal")
SHUTDOWN = Exit("shutdown")
KILLED = Exit("killed")
