"""Whatever happens to a tree, real supervisors do what the naive model does; and however things overlap, they keep
their promises.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby
from typing import Any

from hypothesis import reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mbactor import MbactorError
from tests.supervisor.grove import IDS, Branch, Grove, Puppet, Twig, branches, kid_of, twigs
from tests.supervisor.naive import Kid, Model, Nature, Pool

NUMBERS = st.integers(0, 40)
HOW = st.sampled_from(["crash", "crash", "told", "finish"])
ADDED = twigs(st.sampled_from(IDS), auto="any_significant", depth=1, slow=False)


class Calm(RuleBasedStateMachine):
    """One event at a time, each handled to its end, beside the naive model."""

    grove: Grove | None = None
    model: Model

    @initialize(branch=branches(depth=2, top=True), luck=st.lists(st.tuples(NUMBERS, st.booleans()), max_size=2))
    def plant(self, branch: Branch, luck: list[tuple[int, bool]]) -> None:
        self.grove = Grove(branch)
        self.model = branch.model(Nature(), "")
        self.ended: str | None = None
        self.model.tell = self.model_ended
        paths = list(self.grove.scripts)
        for number, ignores in luck if paths else ():
            self.set_luck(paths[number % len(paths)], 1, ignores=ignores)
        try:
            self.grove.start()
        except MbactorError:
            self.ended = "failed"
        assert self.model.boot() is (self.ended is None)
        self.grove.settle()
        self.model.run_due()

    def model_ended(self, kind: str) -> None:
        self.ended = kind

    # --- what is there ------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        return [] if self.ended else list(self.model.all_models())

    def leaves(self) -> list[tuple[Model, Kid]]:
        return [
            (model, kid)
            for model in self.models()
            for kid in model.kids
            if kid.inner is None and kid.state == "running"
        ]

    # --- children end -------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, how=HOW)
    def ends(self, number: int, how: str) -> None:
        leaves = self.leaves()
        if leaves:
            assert self.grove is not None
            model, kid = leaves[number % len(leaves)]
            (how,) = self.grove.run(self.hit([(model, kid, how)]))
            self.model.nature.log.append(("down", model.full(kid)))
            model.exited(kid.id, clean=how == "finish", told=how == "told")
            self.settle()

    @rule(number=NUMBERS, hows=st.lists(HOW, min_size=2, max_size=4), order=st.randoms(use_true_random=False))
    def end_together(self, number: int, hows: list[str], order: Any) -> None:
        models = [model for model in self.models() if not isinstance(model, Pool) and len(self.leaves_of(model)) > 1]
        if models:
            model = models[number % len(models)]
            kids = self.leaves_of(model)
            order.shuffle(kids)
            hits = [(model, kid, how) for kid, how in zip(kids, hows, strict=False)]
            assert self.grove is not None
            done = list(zip(kids, self.grove.run(self.hit(hits)), strict=False))
            self.model.nature.log.extend(("down", model.full(kid)) for kid, _ in done)
            model.together([(kid.id, how == "finish", how == "told") for kid, how in done])
            self.settle()

    def leaves_of(self, model: Model) -> list[Kid]:
        return [kid for kid in model.kids if kid.inner is None and kid.state == "running"]

    async def hit(self, hits: list[tuple[Model, Kid, str]]) -> list[str]:
        """Let them end so, all at the same time."""
        assert self.grove is not None
        done = []
        for model, kid, how in hits:
            ref = await self.grove.ref(model.full(kid))
            if how == "told" and kid.backoff is None:
                how = "crash"  # its pace of 10 ms is not exact in binary
            if how == "told":
                self.grove.later(ref.ask(Puppet.crash))
            else:
                ref.tell(Puppet.finish if how == "finish" else Puppet.crash)
            done.append(how)
        return done

    @rule(number=NUMBERS, kill=st.booleans())
    def end_for_good(self, number: int, kill: bool) -> None:
        leaves = self.leaves()
        if leaves:
            assert self.grove is not None
            model, kid = leaves[number % len(leaves)]
            ref = self.grove.run(self.grove.ref(model.full(kid)))
            self.grove.run(ref.kill() if kill else ref.stop())
            model.terminate(kid.id)
            self.settle()

    # --- luck and time ------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, times=st.integers(1, 4), ignores=st.booleans())
    def next_starts(self, number: int, times: int, ignores: bool) -> None:
        paths = [model.full(kid) for model in self.models() for kid in model.kids if kid.inner is None]
        if paths:
            self.set_luck(paths[number % len(paths)], times, ignores=ignores)

    def set_luck(self, path: str, times: int, *, ignores: bool) -> None:
        assert self.grove is not None
        script = self.grove.script(path)
        if ignores:
            script.ignores = self.model.nature.ignores[path] = times
        else:
            script.fails = self.model.nature.fails[path] = times

    @rule(by=st.sampled_from([0.25, 0.5, 1.0, 4.0, 8.0]))
    def advance(self, by: float) -> None:
        assert self.grove is not None
        self.grove.run(asyncio.sleep(by))
        if self.ended is None:
            self.model.advance(by)
        if self.model.nature.tied:
            self.give_up_on_it()
        self.settle()

    def give_up_on_it(self) -> None:
        assert self.grove is not None
        grove, self.grove = self.grove, None
        grove.close()
        reject()

    # --- calls --------------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, id=st.sampled_from(IDS), name=st.sampled_from(["terminate", "restart", "delete"]))
    def call(self, number: int, id: str, name: str) -> None:
        models = self.models()
        if models:
            model = models[number % len(models)]
            said = self.said(model, f"{name}_child", (f"{model.path}/{id}" if model.path else id).replace("/", "."))
            assert said == getattr(model, name)(id)
            self.settle()

    @rule(number=NUMBERS, twig=ADDED)
    def add(self, number: int, twig: Twig) -> None:
        models = self.models()
        if models:
            assert self.grove is not None
            model = models[number % len(models)]
            twig = replace(twig, significant=twig.significant and model.auto != "never")
            before = self.grove.script(f"{model.path}/{twig.id}" if model.path else twig.id)
            said = self.said(model, "start_child", self.grove.spec(twig, model.path))
            assert before.path in self.grove.scripts
            assert said == model.add(kid_of(twig))
            self.settle()

    def said(self, model: Model, name: str, argument: Any) -> str:
        assert self.grove is not None
        try:
            supervisor = self.grove.run(self.grove.supervisor(model.path))
            self.grove.run(getattr(supervisor, name)(argument))
        except MbactorError as error:
            return type(error).__name__
        return "ok"

    # --- both sides ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        assert self.grove is not None
        self.grove.settle()
        if self.ended is None:
            self.model.run_due()

    @invariant()
    def they_agree(self) -> None:
        if self.grove is None:
            return
        theirs = [entry for entry in self.model.nature.log if entry[0] in {"start", "down"}]
        assert self.canonical(self.grove.log) == self.canonical(theirs)
        assert self.grove.top.phase == ("ended" if self.ended else "running")
        if self.ended in {"gave_up", "shutdown"}:
            assert self.grove.exit is not None
            assert self.grove.exit.kind == self.ended
        assert max((script.most_alive for script in self.grove.scripts.values()), default=0) <= 1
        self.grove.run(self.supervisors_agree())

    async def supervisors_agree(self) -> None:
        for model in self.models():
            assert self.grove is not None
            self.supervisor_agrees(await self.grove.supervisor(model.path), model)

    def supervisor_agrees(self, real: Any, model: Model) -> None:
        rows = real.which_children()
        kids = [(model.full(kid).replace("/", "."), kid.state, kid.held) for kid in model.kids]
        assert [(row.id, row.state, row.held) for row in rows] == kids
        count = real.count_children()
        assert (count.specs, count.active) == (len(kids), sum(state == "running" for _, state, _ in kids))
        if not isinstance(model, Pool):
            assert list(real._runner.state.spent) == model.charged
            assert len(model.charged) <= model.most

    def canonical(self, log: list[tuple[str, str]]) -> list[tuple[str, str]]:
        assert self.grove is not None
        return _canonical(log, self.grove.pools, 1)

    def teardown(self) -> None:
        if self.grove is None:
            return
        before = len(self.grove.log)
        self.grove.close()
        if self.ended is None:
            self.model.finish("shutdown")
        theirs = [entry for entry in self.model.nature.log if entry[0] in {"start", "down"}]
        assert self.canonical(self.grove.log) == self.canonical(theirs), before


def _canonical(log: list[tuple[str, str]], pools: set[str], depth: int) -> list[tuple[str, str]]:
    """The children of a dynamic supervisor stop at the same time, each in its own order: here one after the other."""
    found = list[tuple[str, str]]()
    for pool, entries in groupby(log, lambda entry: _pool_of(entry[1], pools, depth)):
        run = list(entries)
        if pool is None:
            found.extend(run)
            continue
        below = len(pool.split("/"))
        for child in sorted({path.split("/")[below] for _, path in run}):
            of_child = [entry for entry in run if entry[1].split("/")[below] == child]
            found.extend(_canonical(of_child, pools, below + 1))
    return found


def _pool_of(path: str, pools: set[str], depth: int) -> str | None:
    """The outermost dynamic supervisor above it, of those that far down."""
    parts = path.split("/")
    return next((above for n in range(depth, len(parts)) if (above := "/".join(parts[:n])) in pools), None)


TestCalm = Calm.TestCase
TestCalm.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


# --- at the same time -------------------------------------------------------------------------------------------------


class Rough(RuleBasedStateMachine):
    """Everything at once: slow starts and stops, children that swallow their cancellation, calls that overtake each
    other. What must hold is what supervisors promise; there is no model of who is first.
    """

    grove: Grove | None = None

    @initialize(branch=branches(depth=2, slow=True, top=True), seed=st.integers(0, 1000))
    def plant(self, branch: Branch, seed: int) -> None:
        self.grove = Grove(branch, seed)
        self.grove.later(self.grove.top.start())

    # --- what is there ------------------------------------------------------------------------------------------

    def pick(self, number: int, found: list[Any]) -> Any:
        return found[number % len(found)] if found else None

    async def everything(self) -> list[tuple[Any, Any]]:
        """Each child there is, with its supervisor."""
        assert self.grove is not None
        found, left = list[tuple[Any, Any]](), [self.grove.top]
        while left:
            supervisor = left.pop()
            for row in supervisor.which_children():
                found.append((supervisor, row))
                if row.kind == "supervisor" and row.ref is not None:
                    left.append(row.ref)
        return found

    # --- what happens -------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, how=st.sampled_from(["crash", "told", "finish", "dawdle", "stop", "kill"]))
    def ends(self, number: int, how: str) -> None:
        assert self.grove is not None
        found = self.pick(number, [row for _, row in self.grove.run(self.everything()) if row.kind == "actor"])
        if found is not None and found.ref is not None:
            self.grove.run(self.hit(found.ref, how))

    async def hit(self, ref: Any, how: str) -> None:
        assert self.grove is not None
        match how:
            case "told":
                self.grove.later(ref.ask(Puppet.crash))
            case "dawdle":
                ref.tell(Puppet.dawdle, 3.0)
            case "stop" | "kill":
                self.grove.later(ref.stop() if how == "stop" else ref.kill())
            case _:
                ref.tell(Puppet.finish if how == "finish" else Puppet.crash)

    @rule(
        number=NUMBERS,
        fails=st.integers(0, 3),
        ignores=st.integers(0, 1),
        start=st.sampled_from([0.0, 0.1, 2.0]),
        stop=st.sampled_from([0.0, 0.1, 2.0]),
        swallows=st.booleans(),
    )
    def luck(self, number: int, fails: int, ignores: int, start: float, stop: float, swallows: bool) -> None:
        assert self.grove is not None
        script = self.pick(number, list(self.grove.scripts.values()))
        if script is not None:
            script.fails, script.ignores = fails, ignores
            script.slow_start, script.slow_stop, script.swallows = start, stop, swallows

    @rule(number=NUMBERS, name=st.sampled_from(["terminate", "restart", "delete"]))
    def call(self, number: int, name: str) -> None:
        assert self.grove is not None
        found = self.pick(number, self.grove.run(self.everything()))
        if found is not None:
            self.grove.later(getattr(found[0], f"{name}_child")(found[1].id))

    @rule(number=NUMBERS, twig=twigs(st.sampled_from(IDS), auto="any_significant", depth=1, slow=True))
    def add(self, number: int, twig: Twig) -> None:
        assert self.grove is not None
        supervisor = self.pick(number, self.grove.run(self.supervisors()))
        twig = replace(twig, significant=twig.significant and supervisor.auto_shutdown != "never")
        self.grove.later(supervisor.start_child(self.grove.spec(twig, supervisor.at)))

    @rule(number=NUMBERS, by=st.sampled_from([0.0, 0.05, 0.3, 1.5, 5.0]))
    def advance(self, number: int, by: float) -> None:
        assert self.grove is not None
        for _ in range(number % 5):
            self.grove.run(asyncio.sleep(0))
        if by:
            self.grove.run(asyncio.sleep(by))

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        if self.grove is not None:
            self.grove.run(self.check())

    async def check(self) -> None:
        assert self.grove is not None
        scripts = self.grove.scripts
        assert all(script.most_alive <= 1 for script in scripts.values()), "two incarnations at once"
        for supervisor in await self.supervisors():
            state = supervisor._runner.state
            if state.phase in {"boot", "running"}:
                assert len(state.spent) <= supervisor._runner.spec.max_restarts
            if state.phase == "ended":
                above = f"{supervisor.at}/" if supervisor.at else ""
                alive = [path for path, script in scripts.items() if path.startswith(above) and script.alive]
                assert alive == [], "a child outlives its supervisor"

    async def supervisors(self) -> list[Any]:
        assert self.grove is not None
        below = [row.ref for _, row in await self.everything() if row.kind == "supervisor" and row.ref is not None]
        return [self.grove.top, *below]

    def teardown(self) -> None:
        if self.grove is None:
            return
        try:
            self.grove.run(asyncio.sleep(300))
            for supervisor in self.grove.run(self.supervisors()):
                self.is_settled(supervisor)
        finally:
            self.grove.close()

    def is_settled(self, supervisor: Any) -> None:
        """Nothing is under way any more, and whoever is to run runs."""
        assert self.grove is not None
        state = supervisor._runner.state
        assert state.operation is None
        assert state.queue == ()
        for one in state.children if state.phase == "running" else ():
            script = self.grove.scripts.get(one.id.replace(".", "/"))
            may_rest = one.held or one.spec.restart != "permanent" or (script is not None and script.ignored)
            assert one.status == "running" or (one.status == "stopped" and may_rest)


TestRough = Rough.TestCase
TestRough.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
