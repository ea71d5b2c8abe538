"""Which branch's value a field has where several wrote it and no reducer combined them (pure).

winners([(0, "step-a", {"score": ...}), (1, "step-b", {"score": ...})], {"score": Chosen("replace", "default")})
# {"score": "step-b"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mbactor.foreman.model.reducers import Chosen, Reducer
from mbactor.foreman.model.state import Fields


def winners(writes: Iterable[tuple[int, str, Fields]], chosen: Mapping[str, Chosen]) -> dict[str, str]:
    """Field -> the step whose value, or deletion, was taken. `writes`: (branch, step, delta) in the order of folding.

    Only fields that more than one branch wrote are in it: in the others nothing was lost.
    """
    last: dict[str, str] = {}
    branches: dict[str, set[int]] = {}
    for branch, step, delta in writes:
        for field in delta:
            last[field] = step
            branches.setdefault(field, set()).add(branch)
    return {
        field: step
        for field, step in last.items()
        if len(branches[field]) > 1 and field in chosen and chosen[field].name == Reducer.REPLACE
    }
