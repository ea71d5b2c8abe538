"""An independent, naive model of supervision, written from the rules and not from the policy.

One big step at a time: an event is handled to its end before the next, and takes no time. `Nature.log` is what the
world saw: ("start", path), ("down", path), and of each supervisor ("drop", path) and ("end", kind). Delays are kept as
due times; `Nature.advance` lets them come due, over all levels of a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Nature:
    """What all supervisors of a tree have in common: time, luck and the log."""

    now: float = 0.0
    fails: dict[str, int] = field(default_factory=dict)
    ignores: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    armed: int = 0
    tied: bool = False
    """Two supervisors had something to do at the same instant: who is first is not for a model to say."""


@dataclass
class Kid:
    id: str
    restart: str = "permanent"
    backoff: tuple[float, float] | None = None  # (initial, maximum), factor 2, no jitter
    significant: bool = False
    inner: Callable[[Nature, str], Model] | None = None
    state: str = "stopped"
    held: bool = False
    victim: bool = False
    pending: tuple[bool, bool, bool] | None = None
    tries: int = 0
    since: float = 0.0
    due: float | None = None
    rings: float = 0.0
    turn: int = 0
    charged: list[float] = field(default_factory=list)
    model: Model | None = None


@dataclass
class Model:
    strategy: str
    most: int
    within: float
    kids: list[Kid]
    auto: str = "never"
    nature: Nature = field(default_factory=Nature)
    path: str = ""
    charged: list[float] = field(default_factory=list)
    over: bool = False
    tell: Callable[[str], None] = lambda _: None

    # --- what is to be seen -------------------------------------------------------------------------------------

    @property
    def log(self) -> list[tuple[str, str]]:
        return self.nature.log

    def kid(self, id: str) -> Kid | None:
        return next((kid for kid in self.kids if kid.id == id), None)

    def all_models(self) -> Iterator[Model]:
        """Itself and those below that run."""
        yield self
        for kid in self.kids:
            if kid.model is not None and kid.state == "running":
                yield from kid.model.all_models()

    def full(self, kid: Kid) -> str:
        return f"{self.path}/{kid.id}" if self.path else kid.id

    # --- starts and stops ---------------------------------------------------------------------------------------

    def boot(self) -> bool:
        for kid in list(self.kids):
            if self.try_start(kid) == "fail":
                self.finish("failed")
                return False
        return True

    def try_start(self, kid: Kid) -> str:
        path = self.full(kid)
        self.log.append(("start", path))
        kid.victim, kid.due, kid.pending = False, None, None
        for luck, outcome in ((self.nature.fails, "fail"), (self.nature.ignores, "ignore")):
            if kid.inner is None and luck.get(path, 0) > 0:
                luck[path] -= 1
                kid.state = "stopped"
                if outcome == "ignore":
                    kid.held = False
                    self.rest(kid)
                return outcome
        if kid.inner is not None:
            kid.model = kid.inner(self.nature, path)
            if not kid.model.boot():
                self.log.append(("down", path))
                kid.state = "stopped"
                return "fail"
            kid.model.tell = lambda kind: self.exited(
                kid.id, clean=kind == "shutdown", told=False, gave_up=kind == "gave_up"
            )
        kid.state, kid.since, kid.held = "running", self.nature.now, False
        return "ok"

    def stop_kid(self, kid: Kid) -> None:
        if kid.model is not None:
            kid.model.tell = lambda _: None
            kid.model.finish("shutdown")
        self.log.append(("down", self.full(kid)))
        kid.state = "stopped"

    def finish(self, kind: str) -> None:
        """Stop all that runs, and end so."""
        for kid in reversed(list(self.kids)):
            if kid.state == "running":
                self.stop_kid(kid)
            kid.state, kid.due, kid.pending = "stopped", None, None
        self.log.append(("end", kind))
        self.over = True

    def end(self, kind: str) -> None:
        self.finish(kind)
        if self.path:
            self.log.append(("down", self.path))
        self.tell(kind)

    def rest(self, kid: Kid) -> None:
        if kid.restart == "temporary":
            self.forget(kid)

    def forget(self, kid: Kid) -> None:
        self.kids.remove(kid)
        self.log.append(("drop", self.full(kid)))

    # --- ends -----------------------------------------------------------------------------------------------------

    def exited(self, id: str, *, clean: bool, told: bool, gave_up: bool = False) -> None:
        kid = self.kid(id)
        if self.over or kid is None or kid.state != "running":
            return
        kid.state = "stopped"
        self.judge(kid, clean=clean, told=told, gave_up=gave_up)

    def together(self, ends: list[tuple[str, bool, bool]]) -> None:
        """Children end at the same time; they are looked at in this order."""
        gone: list[tuple[Kid, tuple[bool, bool, bool]]] = []
        for id, clean, told in ends:
            kid = self.kid(id)
            if kid is not None and kid.state == "running":
                kid.state, kid.pending = "stopped", (clean, told, False)
                gone.append((kid, kid.pending))
        for kid, pending in gone:
            if not self.over and kid in self.kids and kid.pending is pending:
                kid.pending = None
                self.judge(kid, clean=pending[0], told=pending[1], gave_up=False)

    def judge(self, kid: Kid, *, clean: bool, told: bool, gave_up: bool) -> None:
        if kid.restart == "permanent" or (kid.restart == "transient" and not clean):
            longest = kid.backoff[1] if kid.backoff else 1.0
            if self.nature.now - kid.since >= longest:
                kid.tries = 0
            self.bring_back(kid, free=told, attempt=False)
            return
        self.rest(kid)
        if kid.significant and not gave_up and self.auto != "never":
            others = [k for k in self.kids if k.significant and k is not kid]
            alive = any(k.state in {"running", "restarting"} or k.pending for k in others)
            if self.auto == "any_significant" or not alive:
                self.end("shutdown")

    # --- restarts ---------------------------------------------------------------------------------------------------

    def charge(self, kid: Kid) -> bool:
        """False where that is one too many."""
        now = self.nature.now
        self.charged = [t for t in self.charged if t >= now - self.within] + [now]
        if len(self.charged) > self.most:
            self.end("gave_up")
            return False
        return True

    def bring_back(self, kid: Kid, *, free: bool, attempt: bool) -> None:
        if not free and not self.charge(kid):
            return
        now, wait = self.nature.now, 0.0
        shape = kid.backoff or ((0.010, 1.0) if free else None)
        if shape:
            wait = min(shape[1], shape[0] * 2.0**kid.tries)
        kid.tries += 1
        kid.state = "restarting"
        due, first = now + wait, kid
        if self.strategy != "one_for_one":
            waiting = [k for k in self.kids if k.due is not None and k is not kid]
            due = max([due] + [k.due for k in waiting if k.due is not None])
            first = min([kid, *waiting], key=self.kids.index)
            for k in waiting:
                k.due = None
        if attempt or due > now:
            self.arm(first, due)
            if not attempt:
                self.take_down(first)
        else:
            self.cycle(first)

    def arm(self, kid: Kid, due: float) -> None:
        self.nature.armed += 1
        kid.due, kid.state, kid.turn = due, "restarting", self.nature.armed
        kid.rings = self.nature.now + max(0.0, due - self.nature.now)

    def members(self, kid: Kid) -> list[Kid]:
        if self.strategy == "one_for_all":
            return list(self.kids)
        if self.strategy == "rest_for_one":
            return self.kids[self.kids.index(kid) :]
        return [kid]

    def take_down(self, kid: Kid) -> None:
        members = self.members(kid)
        for other in reversed(members):
            if other.state == "running" or other.pending:
                if other.state == "running":
                    self.stop_kid(other)
                other.victim, other.pending = True, None
                if other.restart == "temporary":
                    self.forget(other)

    def cycle(self, kid: Kid) -> None:
        self.take_down(kid)
        todo = [k for k in self.members(kid) if not k.held]
        for k in self.members(kid):
            k.due = None
        for n, k in enumerate(todo):
            if self.try_start(k) == "fail":
                for later in todo[n + 1 :]:
                    later.victim = True
                self.bring_back(k, free=False, attempt=True)
                return

    # --- time -------------------------------------------------------------------------------------------------------

    def advance(self, by: float) -> None:
        until = self.nature.now + by
        self.run_due(until)
        self.nature.now = until

    def run_due(self, until: float | None = None) -> None:
        """Let delayed restarts come due, the earliest first; those of one instant as they were armed."""
        until = self.nature.now if until is None else until
        while True:
            waiting = [(k.rings, k.turn, model, k) for model in self.all_models() for k in model.kids]
            due = [one for one in waiting if one[3].due is not None and one[0] <= until and not one[2].over]
            if not due:
                return
            rings, _, model, kid = min(due, key=lambda one: one[:2])
            if any(
                one[0] == rings and (one[2] is not model or isinstance(model, Pool)) for one in due if one[3] is not kid
            ):
                self.nature.tied = True
            self.nature.now = max(self.nature.now, rings)
            model.cycle(kid)

    # --- calls ------------------------------------------------------------------------------------------------------

    def terminate(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        due, kid.due = kid.due, None
        if kid.state == "running":
            self.stop_kid(kid)
            due = None
        kid.state, kid.held, kid.victim = "stopped", True, False
        self.rest(kid)
        if due is not None and self.strategy != "one_for_one":
            for other in self.kids:
                if other.victim or other.state == "restarting":
                    self.arm(other, due)
                    break
        return "ok"

    def restart(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        if kid.state != "stopped":
            return "ChildRunning" if kid.state == "running" else "ChildRestarting"
        return "StartFailed" if self.try_start(kid) == "fail" else "ok"

    def delete(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        if kid.state != "stopped":
            return "ChildRunning" if kid.state == "running" else "ChildRestarting"
        self.forget(kid)
        return "ok"

    def add(self, new: Kid) -> str:
        kid = self.kid(new.id)
        if kid is not None:
            return "AlreadyStarted" if kid.state == "running" else "AlreadyPresent"
        self.kids.append(new)
        if self.try_start(new) == "fail":
            self.forget(new)
            return "StartFailed"
        return "ok"


@dataclass
class Pool(Model):
    """A dynamic supervisor: each child for itself, with a budget of its own, and forgotten once it is down for good."""

    limit: int | None = None

    def charge(self, kid: Kid) -> bool:
        now = self.nature.now
        kid.charged = [t for t in kid.charged if t >= now - self.within] + [now]
        if len(kid.charged) > self.most:
            kid.state = "stopped"
            self.forget(kid)
            return False
        return True

    def rest(self, kid: Kid) -> None:
        self.forget(kid)

    def restart(self, id: str) -> str:
        return "NoSuchChild" if self.kid(id) is None else "ChildRunning"

    def delete(self, id: str) -> str:
        return self.restart(id)

    def add(self, new: Kid) -> str:
        if self.kid(new.id) is None and self.limit is not None and len(self.kids) >= self.limit:
            return "Unavailable"
        return super().add(new)
