"""An independent, naive model of supervision, written from the rules and not from the policy.

One big step at a time: an event is handled to its end before the next. `Model.log` is what the world saw:
("start", id), ("stop", id), ("drop", id), ("end", kind). Delays are kept as due times; `advance` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Kid:
    id: str
    restart: str
    backoff: tuple[float, float] | None = None  # (initial, maximum), factor 2, no jitter
    state: str = "stopped"
    held: bool = False
    victim: bool = False
    tries: int = 0
    since: float = 0.0
    due: float | None = None


@dataclass
class Model:
    strategy: str
    most: int
    within: float
    kids: list[Kid]
    fails: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    now: float = 0.0
    charged: list[float] = field(default_factory=list)
    over: bool = False

    def kid(self, id: str) -> Kid | None:
        for kid in self.kids:
            if kid.id == id:
                return kid
        return None

    def boot(self) -> None:
        for kid in self.kids:
            if not self.try_start(kid):
                self.finish("failed")
                return

    def try_start(self, kid: Kid) -> bool:
        self.log.append(("start", kid.id))
        kid.victim, kid.due = False, None
        if self.fails.get(kid.id, 0) > 0:
            self.fails[kid.id] -= 1
            kid.state = "stopped"
            return False
        kid.state, kid.since, kid.held = "running", self.now, False
        return True

    def finish(self, kind: str) -> None:
        for kid in reversed(self.kids):
            if kid.state == "running":
                self.log.append(("stop", kid.id))
            kid.state, kid.due = "stopped", None
        self.log.append(("end", kind))
        self.over = True

    def forget(self, kid: Kid) -> None:
        self.kids.remove(kid)
        self.log.append(("drop", kid.id))

    def exited(self, id: str, clean: bool, told: bool) -> None:
        kid = self.kid(id)
        if self.over or kid is None or kid.state != "running":
            return
        kid.state = "stopped"
        if kid.restart == "temporary":
            self.forget(kid)
        elif kid.restart == "permanent" or not clean:
            longest = kid.backoff[1] if kid.backoff else 1.0
            if self.now - kid.since >= longest:
                kid.tries = 0
            self.bring_back(kid, free=told, attempt=False)

    def bring_back(self, kid: Kid, *, free: bool, attempt: bool) -> None:
        if not free:
            self.charged = [t for t in self.charged if t >= self.now - self.within] + [self.now]
            if len(self.charged) > self.most:
                self.finish("gave_up")
                return
        wait = 0.0
        shape = kid.backoff or ((0.010, 1.0) if free else None)
        if shape:
            wait = min(shape[1], shape[0] * 2.0**kid.tries)
        kid.tries += 1
        kid.state = "restarting"
        due, first = self.now + wait, kid
        if self.strategy != "one_for_one":
            waiting = [k for k in self.kids if k.due is not None and k is not kid]
            due = max([due] + [k.due for k in waiting if k.due is not None])
            first = min([kid, *waiting], key=self.kids.index)
            for k in waiting:
                k.due = None
        if attempt or due > self.now:
            first.due, first.state = due, "restarting"
            if not attempt:
                self.take_down(first)
        else:
            self.cycle(first)

    def members(self, kid: Kid) -> list[Kid]:
        if self.strategy == "one_for_all":
            return list(self.kids)
        if self.strategy == "rest_for_one":
            return self.kids[self.kids.index(kid) :]
        return [kid]

    def take_down(self, kid: Kid) -> None:
        for other in reversed(self.members(kid)):
            if other.state == "running":
                self.log.append(("stop", other.id))
                other.state, other.victim = "stopped", True
                if other.restart == "temporary":
                    self.forget(other)

    def cycle(self, kid: Kid) -> None:
        self.take_down(kid)
        todo = [k for k in self.members(kid) if not k.held]
        for k in self.members(kid):
            k.due = None
        for n, k in enumerate(todo):
            if not self.try_start(k):
                for later in todo[n + 1 :]:
                    later.victim = True
                self.bring_back(k, free=False, attempt=True)
                return

    def advance(self, by: float) -> None:
        self.now += by
        self.run_due()

    def run_due(self) -> None:
        while not self.over:
            due = [k for k in self.kids if k.due is not None and k.due <= self.now]
            if not due:
                return
            self.cycle(min(due, key=lambda k: k.due or 0.0))

    def terminate(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        due, kid.due = kid.due, None
        if kid.state == "running":
            self.log.append(("stop", id))
            due = None
        kid.state, kid.held, kid.victim = "stopped", True, False
        if kid.restart == "temporary":
            self.forget(kid)
        if due is not None and self.strategy != "one_for_one":
            for other in self.kids:
                if other.victim or other.state == "restarting":
                    other.due, other.state = due, "restarting"
                    break
        return "ok"

    def restart(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        if kid.state != "stopped":
            return "ChildRunning" if kid.state == "running" else "ChildRestarting"
        return "ok" if self.try_start(kid) else "StartFailed"

    def delete(self, id: str) -> str:
        kid = self.kid(id)
        if kid is None:
            return "NoSuchChild"
        if kid.state != "stopped":
            return "ChildRunning" if kid.state == "running" else "ChildRestarting"
        self.forget(kid)
        return "ok"

    def add(self, id: str, restart: str) -> str:
        kid = self.kid(id)
        if kid is not None:
            return "AlreadyStarted" if kid.state == "running" else "AlreadyPresent"
        new = Kid(id, restart)
        self.kids.append(new)
        if not self.try_start(new):
            self.forget(new)
            return "StartFailed"
        return "ok"
