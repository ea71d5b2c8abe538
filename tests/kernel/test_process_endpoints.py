"""`@endpoint(process=True)`: what crosses to a worker process and back, and what becomes of a call that fails there."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorCrashed, ActorRef, ActorSystem, BadRequest, MbactorError, endpoint
from mbactor.errors import ProcessDied


class Pictures(Actor):
    """Has its work done in worker processes."""

    @endpoint(process=True)
    @staticmethod
    def turned(name: str, *, by: int = 90, tags: list[str] | None = None) -> dict[str, Any]:
        return {"name": name, "by": by, "tags": tags, "here": os.getpid()}

    @endpoint(process=True)
    @staticmethod
    def same(value: Any) -> Any:
        return value

    @endpoint(process=True)
    @staticmethod
    def owner(ref: ActorRef[Pictures]) -> ActorRef[Pictures]:
        return ref

    @endpoint(process=True)
    @staticmethod
    def unfit() -> int:
        wrong: Any = "many"
        return wrong  # type: ignore[no-any-return]

    @endpoint(process=True)
    @staticmethod
    def untold() -> Any:
        return object()

    @endpoint(process=True)
    @staticmethod
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @endpoint(process=True)
    @staticmethod
    def fail(how: str) -> None:
        if how == "answer":
            raise MbactorError("no such picture", status=404, picture="a-17")
        raise SystemExit(3) if how == "exit" else ValueError("torn")

    @endpoint(process=True)
    @staticmethod
    def dawdle() -> None:
        time.sleep(600)

    @endpoint
    async def who(self) -> str:
        return self.id


@pytest.fixture
async def pictures(mbactor: ActorSystem) -> ActorRef[Pictures]:
    return await mbactor.spawn(Pictures)


async def test_arguments_and_result_cross(pictures: ActorRef[Pictures]) -> None:
    turned = await pictures.ask(Pictures.turned, "sea")
    assert turned.pop("here") != os.getpid()
    assert turned == {"name": "sea", "by": 90, "tags": None}
    assert (await pictures.ask(Pictures.turned, "sea", by=180, tags=["old"]))["tags"] == ["old"]
    for value in (2**80, {"nested": [1, None, "x"]}, "\u00e9", 1.5):
        assert await pictures.ask(Pictures.same, value) == value
    assert await pictures.ask(Pictures.owner, pictures) == pictures


def test_an_instance_made_by_hand_calls_the_function_here() -> None:
    assert Pictures().turned("sea")["here"] == os.getpid()


async def test_what_does_not_fit_is_told_to_whose_mistake_it_is(pictures: ActorRef[Pictures]) -> None:
    wrong: Any = pictures
    with pytest.raises(BadRequest, match=r"Expected `int`, got `str` - at `\$\.by`"):
        await wrong.ask(Pictures.turned, "sea", by="far")
    with pytest.raises(BadRequest, match="argument 'value' of Pictures.same cannot travel"):
        await pictures.ask(Pictures.same, object())
    for operation, said in (
        (Pictures.unfit, "Pictures.unfit returned what does not fit its annotation int: Expected `int`, got `str`"),
        (Pictures.untold, "Pictures.untold returned object, which does not fit its annotation Any"),
    ):
        with pytest.raises(MbactorError, match=said) as raised:
            await pictures.ask(operation)
        assert raised.value.status == 500


async def test_a_process_that_dies_is_an_error_of_its_call_and_of_nothing_else(pictures: ActorRef[Pictures]) -> None:
    before = await pictures.ask(Pictures.who)
    with pytest.raises(ProcessDied, match="was killed by SIGKILL"):
        await pictures.ask(Pictures.die)
    assert await pictures.ask(Pictures.same, 1) == 1
    assert await pictures.ask(Pictures.who) == before


async def test_an_exception_there_is_told_with_its_trace_and_ends_nothing(pictures: ActorRef[Pictures]) -> None:
    before = await pictures.ask(Pictures.who)
    with pytest.raises(MbactorError, match="no such picture") as answered:
        await pictures.ask(Pictures.fail, "answer")
    assert (answered.value.status, answered.value.picture) == (404, "a-17")
    with pytest.raises(ActorCrashed, match="ValueError: torn") as crashed:
        await pictures.ask(Pictures.fail, "crash")
    assert 'ValueError("torn")' in str(crashed.value.remote_trace)
    with pytest.raises(ActorCrashed, match="SystemExit: 3"):
        await pictures.ask(Pictures.fail, "exit")
    assert await pictures.ask(Pictures.who) == before


@pytest.mark.mbactor(real_time=True)
async def test_what_overruns_is_killed_and_the_actor_serves_on(pictures: ActorRef[Pictures]) -> None:
    assert await pictures.ask(Pictures.same, 1) == 1
    with pytest.raises(TimeoutError), anyio.fail_after(0.3):
        await pictures.ask(Pictures.dawdle)
    assert await pictures.ask(Pictures.same, 2) == 2
