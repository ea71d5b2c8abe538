"""All children of a supervisor as one value: another of which a few are changed costs little, however many there are."""

from __future__ import annotations

from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mbactor.supervisor.policy import booting, decide
from mbactor.supervisor.siblings import BLOCK, Siblings
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.state import ChildState, Started, State
from tests.supervisor.world import leaf

EVERY = [ChildState(leaf(f"a-{number}")) for number in range(2 * BLOCK + 1)]


@given(
    st.integers(0, len(EVERY)),
    st.lists(st.dictionaries(st.integers(0, len(EVERY) - 1), st.integers(1, 9), max_size=3), max_size=4),
)
def test_what_is_changed_shows_in_the_new_value_only(count: int, rounds: list[dict[int, int]]) -> None:
    model = EVERY[:count]
    siblings = Siblings.of(model)
    for changes in rounds:
        before, earlier = siblings, list(model)
        changed = {
            EVERY[at].id: replace(EVERY[at], restarts=restarts) for at, restarts in changes.items() if at < count
        }
        model = [changed.get(one.id, one) for one in model]
        siblings = before.with_changed(changed)
        if len(changed) == 1:
            assert before.with_one(*next(iter(changed.items()))) == siblings
        assert list(siblings) == model
        assert list(before) == earlier
        assert siblings == Siblings.of(model)
        assert (siblings == before) == (model == earlier)
        assert len(siblings) == count
        assert [siblings.find(one.id) for one in EVERY] == [*model, *[None] * (len(EVERY) - count)]
        assert list(siblings.places) == [one.id for one in model]


def test_a_decision_costs_much_the_same_among_ten_thousand_children() -> None:
    few, many = _one_start(10), _one_start(10_000)
    assert many < 10 * few  # copying them takes fifty times as long


def _one_start(count: int) -> float:
    """Seconds that it takes to decide what follows a start, at best."""
    spec = SupervisorSpec(children=[leaf(f"a-{number}") for number in range(count)])
    state: State = booting(spec)
    took = []
    for number in range(10):
        began = perf_counter()
        state = decide(spec, state, Started(f"a-{number}", 0.0))[0]
        took.append(perf_counter() - began)
    return min(took)
