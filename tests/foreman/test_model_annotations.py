"""What is read of the annotation of a task's result."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pytest

from mbactor import Actor
from mbactor.foreman import Flow, task
from mbactor.foreman.model.annotations import fields_of


class Verdict(msgspec.Struct, rename="camel"):
    score: int
    all_findings: list[str] = []


class Row(TypedDict):
    score: NotRequired[int]


@dataclasses.dataclass
class Point:
    x: float
    _hidden: int = 0


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Verdict, {"score": int, "allFindings": list[str]}),
        (Verdict | None, {"score": int, "allFindings": list[str]}),
        (Annotated[Point, "a note"], {"x": float}),
        (Row, {"score": int}),
        (Row | Point, {"score": int, "x": float}),
        (dict[str, int], {}),
        (None, {}),
        (Any, {}),
        (int, {}),
    ],
)
def test_the_fields_of_a_type_are_those_it_is_stored_with(annotation: Any, expected: dict[str, Any]) -> None:
    assert fields_of(annotation) == expected


class Credit(Actor):
    host = "credit.example"

    @task
    async def verify(self, flow: Flow, amount: int) -> Verdict | None: ...

    @task
    async def broken(self) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821


def test_a_task_reference_tells_what_its_task_writes() -> None:
    assert Credit.verify.result_fields == {"score": int, "allFindings": list[str]}
    assert Credit.broken.result_fields == {}
