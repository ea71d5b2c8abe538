"""The restart policy does what an independently written, naive model does, whatever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.supervisor.spec import Backoff
from tests.supervisor.naive import Kid, Model
from tests.supervisor.world import World, leaf

IDS = ("a", "b", "c", "d")
RESTARTS = st.sampled_from(["permanent", "transient", "temporary"])
# Exact in binary, so that both sides add up to the same instants.
SHAPES = st.sampled_from([None, (0.25, 2.0), (1.0, 1.0)])
EXITS = st.tuples(st.just("exit"), st.sampled_from(IDS), st.sampled_from(["normal", "failed", "told", "killed"]))
EVENTS = st.one_of(
    EXITS,
    EXITS,
    st.tuples(st.just("advance"), st.sampled_from([0.25, 0.5, 1.0, 5.0])),
    st.tuples(st.just("fail"), st.sampled_from(IDS), st.integers(1, 4)),
    st.tuples(st.just("terminate"), st.sampled_from(IDS)),
    st.tuples(st.just("restart"), st.sampled_from(IDS)),
    st.tuples(st.just("delete"), st.sampled_from(IDS)),
    st.tuples(st.just("add"), st.sampled_from(IDS), RESTARTS),
)


def apply(world: World, model: Model, event: tuple[Any, ...]) -> tuple[str, str]:
    """Let the same thing happen on both sides; what the operator was answered."""
    match event:
        case ("exit", id, how):
            kind = "failed" if how == "told" else how
            world.exit(id, kind, told=how == "told")
            model.exited(id, clean=how == "normal", told=how == "told")
        case ("advance", by):
            world.advance(by)
            model.advance(by)
        case ("fail", id, times):
            world.fails[id] = model.nature.fails[id] = times
        case ("terminate", id):
            return world.terminate(id), model.terminate(id)
        case ("restart", id):
            return world.restart(id), model.restart(id)
        case ("delete", id):
            return world.delete(id), model.delete(id)
        case ("add", id, restart):
            return world.add(leaf(id, restart=restart)), model.add(Kid(id, restart))
    return "", ""


def seen(model: Model) -> list[tuple[str, str]]:
    """Its log as the world has it: a child that ends by itself is no news to it."""
    return [("stop", id) if what == "down" else (what, id) for what, id in model.log]


@settings(max_examples=300, deadline=None)
@given(
    strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    most=st.sampled_from([0, 1, 2, 4, 100]),
    kinds=st.lists(st.tuples(RESTARTS, SHAPES), min_size=2, max_size=4),
    fails=st.just({}) | st.dictionaries(st.sampled_from(IDS), st.just(1), max_size=1),
    events=st.lists(EVENTS, min_size=12, max_size=40),
)
def test_the_policy_agrees_with_the_naive_model(
    strategy: str,
    most: int,
    kinds: list[tuple[str, tuple[float, float] | None]],
    fails: dict[str, int],
    events: list[tuple[Any, ...]],
) -> None:
    named = list(zip(IDS, kinds, strict=False))
    specs = [
        leaf(id, restart=restart, backoff=None if shape is None else Backoff(*shape, jitter=0))
        for id, (restart, shape) in named
    ]
    world = World(*specs, strategy=strategy, max_restarts=most, within=5.0, fails=dict(fails)).boot()
    model = Model(strategy, most, 5.0, [Kid(id, restart, shape) for id, (restart, shape) in named])
    model.nature.fails.update(fails)
    model.boot()
    for event in events:
        assert world.log == seen(model)
        if model.over:
            break
        said, expected = apply(world, model, event)
        assert said == expected
        world.run_due()
        model.run_due()
    assert world.log == seen(model)
    assert world.state.phase == ("ended" if model.over else "running")
    if not model.over:
        assert [(c.id, c.status, c.held) for c in world.state.children] == [
            (kid.id, kid.state, kid.held) for kid in model.kids
        ]
