"""What will not stop is cancelled, left behind after its grace, and can do nothing more; its successor starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Exit,
    StartFailed,
    Supervisor,
    child,
    endpoint,
)
from mbactor.kernel import incarnation
from mbactor.supervisor import runner
from mbactor.testing import Recorder


class Witness(Actor):
    """Whom what was left behind tries to reach."""

    host = "witness.example"

    def __init__(self) -> None:
        self.heard: list[str] = []

    @endpoint
    async def hear(self, what: str) -> int:
        self.heard.append(what)
        return len(self.heard)

    @endpoint
    async def all_heard(self) -> list[str]:
        return self.heard


class Story:
    """What a clinging actor is to do, and what came of it."""

    def __init__(self, witness: ActorRef[Witness], cling_in: str = "") -> None:
        self.witness = witness
        self.cling_in = cling_in
        self.gate = asyncio.Event()
        self.came: dict[str, Any] = {}
        self.starts = 0
        self.over = 0


class Clinger(Actor):
    """Swallows each cancellation until its gate opens, then tries what an actor can do."""

    host = "clinger.example"

    def __init__(self, story: Story) -> None:
        self.story = story

    async def on_start(self) -> None:
        self.story.starts += 1
        self.names = self.refs
        if self.story.cling_in == "on_start" and self.story.starts == 1:
            await self.cling()

    async def on_stop(self, exit: Exit) -> None:
        if self.story.cling_in == "on_stop" and self.story.starts == 1:
            await self.cling()

    @endpoint
    async def work(self, idle: bool = False) -> str:
        if not idle:
            await self.cling()
        return "late"

    @endpoint
    async def work_beside(self, idle: bool = False) -> str:
        clinging = asyncio.ensure_future(self.cling())
        while not clinging.done():
            try:
                await asyncio.wait([clinging])
            except asyncio.CancelledError:
                continue
        return "late"

    @endpoint(concurrency=2)
    async def work_aside(self, idle: bool = False) -> str:
        if not idle:
            await self.cling()
        return "late"

    @endpoint
    async def work_in_background(self) -> None:
        self.spawn_task(self.cling(), name="background")

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def told(self) -> None:
        self.story.came["told itself"] = True

    @endpoint
    async def number(self) -> int:
        return self.story.starts

    async def cling(self) -> None:
        while not self.story.gate.is_set():
            try:
                await self.story.gate.wait()
            except asyncio.CancelledError:
                continue
        witness, came = self.story.witness, self.story.came

        async def nothing() -> None: ...

        tried: dict[str, Callable[[], Any]] = {
            "self.ask": lambda: self.ask(Witness.hear, "self.ask"),
            "self.tell": lambda: self.tell(Witness.hear, "self.tell"),
            "self.at": lambda: self.at("witness.example").ask(Witness.hear, "self.at"),
            "self.request": lambda: self.request("POST", "https://witness.example/hear", {"what": "self.request"}),
            "ref.ask": lambda: witness.ask(Witness.hear, "ref.ask"),
            "ref.tell": lambda: witness.tell(Witness.hear, "ref.tell"),
            "ref.tell_wait": lambda: witness.tell_wait(Witness.hear, "ref.tell_wait"),
            "self.ref": lambda: self.ref,
            "self.refs": lambda: self.refs,
            "names.register": lambda: self.names.register("mine", witness),
            "names.release": lambda: self.names.release("taken"),
            "send_after": lambda: self.send_after(0, Clinger.told),
            "send_every": lambda: self.send_every(1, Clinger.told),
            "set_receive_timeout": lambda: self.set_receive_timeout(1),
            "spawn_task": lambda: self.spawn_task(nothing()),
            "pipe_to_self": lambda: self.pipe_to_self(nothing(), Clinger.told),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            "watch": lambda: self.watch(witness),
            "unwatch": lambda: self.unwatch(witness),
            "stash": self.stash,
            "unstash_all": self.unstash_all,
            "stop": self.stop,
        }
        for name, act in tried.items():
            came[name] = await _came_of(act)
        self.story.over += 1


async def _came_of(act: Callable[[], Any]) -> Any:
    try:
        found = act()
        return await found if isinstance(found, Awaitable) else found
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is noted
        return type(error)


GRACE = 0.01
"""One second in earnest: an anyio scope cancels what resists in each round of the loop, and that takes its time."""


@pytest.fixture
async def story(mbactor: ActorSystem, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Story]:
    for module in (incarnation, runner):
        assert module.GRACE == 1
        monkeypatch.setattr(module, "GRACE", GRACE)
    witness = await mbactor.spawn(Witness)
    mbactor.refs.register("taken", witness)
    story = Story(witness)
    yield story
    story.gate.set()  # also where a test failed


def now() -> float:
    return asyncio.get_running_loop().time()


async def refused(story: Story, system: ActorSystem) -> None:
    """Let what was left behind try all it can: nothing of it has any effect."""
    came = len(story.came)
    story.gate.set()
    await asyncio.sleep(0.001)
    assert story.over == 1
    assert {name: what for name, what in story.came.items() if what is not ActorStopped} == {}
    assert len(story.came) > came
    await asyncio.sleep(5)
    assert await story.witness.ask(Witness.all_heard) == []
    assert "told itself" not in story.came
    assert "mine" not in system.refs
    assert "taken" in system.refs


# --- a method ---------------------------------------------------------------------------------------------------------


@pytest.mark.mbactor(serialize_local=False)
@pytest.mark.parametrize(
    ("work", "how"),
    [
        (Clinger.work, "asked"),
        (Clinger.work, "told"),
        (Clinger.work_aside, "asked"),
        (Clinger.work_aside, "told"),
        (Clinger.work_beside, "asked"),
    ],
)
async def test_a_method_that_will_not_stop_is_left_behind_and_its_successor_serves(
    mbactor: ActorSystem, story: Story, work: Any, how: str
) -> None:
    top = await mbactor.spawn(Supervisor, children=[child(Clinger, args={"story": story}, shutdown="2s")])
    ref = top.which_children()[0].ref
    if work is not Clinger.work_beside:
        # The second message of a kind takes another way into the mailbox than the first.
        ref.tell(work, idle=True)
        await ref.ask(work, idle=True)
    asked = ref.ask(work, idle=False) if how == "asked" else ref.tell(work, idle=False)
    await asyncio.sleep(0.1)
    began = now()
    await top.terminate_child("clinger")
    assert now() - began == pytest.approx(2 + GRACE, abs=0.001)
    assert mbactor.abandoned == 1
    await top.restart_child("clinger")
    assert await ref.ask(Clinger.number) == 2
    if how == "asked":
        with pytest.raises(ActorCrashed):
            await asked
    late = mbactor.late_replies
    await refused(story, mbactor)
    assert mbactor.late_replies == late + (how == "asked")
    assert await ref.ask(Clinger.number) == 2


async def test_after_a_crash_nothing_starts_beside_what_will_not_stop_until_its_grace_is_over(
    mbactor: ActorSystem, story: Story
) -> None:
    top = await mbactor.spawn(Supervisor, children=[child(Clinger, args={"story": story})])
    ref = top.which_children()[0].ref
    ref.tell(Clinger.work_aside)
    await asyncio.sleep(0.1)
    began = now()
    ref.tell(Clinger.crash)
    assert await ref.ask(Clinger.number) == 2
    assert now() - began == pytest.approx(GRACE, abs=0.001)
    assert mbactor.abandoned == 1
    await refused(story, mbactor)


async def test_a_background_task_that_will_not_stop_is_left_behind(
    mbactor: ActorSystem, mbactor_recorder: Recorder, story: Story
) -> None:
    top = await mbactor.spawn(Supervisor, children=[child(Clinger, args={"story": story})])
    ref = top.which_children()[0].ref
    await ref.ask(Clinger.work_in_background)
    ref.tell(Clinger.crash)
    assert await ref.ask(Clinger.number) == 2
    assert mbactor.abandoned == 1
    (event,) = [one.fields for one in mbactor_recorder.find("actor.abandoned")]
    assert event["method"] == "background"
    await refused(story, mbactor)
    assert await ref.ask(Clinger.number) == 2


async def test_what_was_left_behind_is_reported_and_does_not_keep_the_loop_busy(
    mbactor: ActorSystem, mbactor_recorder: Recorder, story: Story
) -> None:
    top = await mbactor.spawn(Supervisor, children=[child(Clinger, args={"story": story}, shutdown="brutal")])
    top.which_children()[0].ref.tell(Clinger.work)
    await asyncio.sleep(0.1)
    await top.terminate_child("clinger")
    assert mbactor.abandoned == 1
    (event,) = [one.fields for one in mbactor_recorder.find("actor.abandoned")]
    assert (event["actor"], event["method"]) == ("clinger.example#clinger", "work")
    loop: Any = asyncio.get_running_loop()
    turns = loop.turns
    await asyncio.sleep(3600)
    assert loop.turns - turns < 10_000


# --- on_stop and on_start ----------------------------------------------------------------------------------------------


async def test_an_on_stop_that_will_not_end_is_left_behind(mbactor: ActorSystem, story: Story) -> None:
    story.cling_in = "on_stop"
    top = await mbactor.spawn(Supervisor, children=[child(Clinger, args={"story": story}, shutdown="2s")])
    ref = top.which_children()[0].ref
    began = now()
    await top.terminate_child("clinger")
    assert now() - began == pytest.approx(2 + GRACE, abs=0.001)
    last = top.which_children()[0].last_exit
    assert last is not None
    assert last.kind == "killed"
    assert mbactor.abandoned == 1
    await top.restart_child("clinger")
    await refused(story, mbactor)
    assert await ref.ask(Clinger.number) == 2


async def test_an_on_start_that_will_not_end_is_left_behind_and_its_end_does_not_touch_its_successor(
    mbactor: ActorSystem, mbactor_recorder: Recorder, story: Story
) -> None:
    story.cling_in = "on_start"
    top = await mbactor.spawn(Supervisor)
    starting = asyncio.ensure_future(top.start_child(child(Clinger, args={"story": story}, shutdown="2s")))
    await asyncio.sleep(0.1)
    assert [row.state for row in top.which_children()] == ["starting"]
    began = now()
    await top.terminate_child("clinger")
    assert now() - began == pytest.approx(2 + GRACE, abs=0.001)
    with pytest.raises(StartFailed, match="did not end"):
        await starting
    assert mbactor.abandoned == 1
    assert [one.fields["method"] for one in mbactor_recorder.find("actor.abandoned")] == ["on_start"]
    ref = await top.start_child(child(Clinger, args={"story": story}))
    await refused(story, mbactor)
    assert await ref.ask(Clinger.number) == 2
    assert top.which_children()[0].state == "running"


@pytest.mark.parametrize("restart", ["permanent", "temporary"])
async def test_an_on_start_that_will_not_end_at_a_restart_is_left_behind_in_the_same_cell(
    mbactor: ActorSystem, story: Story, restart: Any
) -> None:
    """The successor has the address of what was left behind, and its mailbox."""
    inner = {"children": [child(Clinger, args={"story": story}, shutdown="2s")]}
    top = await mbactor.spawn(
        Supervisor, children=[child(Supervisor, id="inner", args=inner, shutdown=None, restart=restart)]
    )
    ref = top.which_children()[0].ref.which_children()[0].ref
    story.cling_in, story.starts = "on_start", 0
    ref.tell(Clinger.crash)
    await asyncio.sleep(0.1)
    waiting = asyncio.ensure_future(ref.ask(Clinger.number))
    await top.which_children()[0].ref.terminate_child("clinger")
    assert mbactor.abandoned == 1
    with pytest.raises(ActorStopped):
        await waiting
    inside = top.which_children()[0].ref
    assert await inside.restart_child("clinger") == ref
    await refused(story, mbactor)
    assert await ref.ask(Clinger.number) == 2
    assert inside.which_children()[0].state == "running"


async def test_a_kill_does_not_wait_for_an_on_start(mbactor: ActorSystem, story: Story) -> None:
    story.cling_in = "on_start"
    top = await mbactor.spawn(Supervisor, children=[child(Witness, id="other")])
    starting = asyncio.ensure_future(top.start_child(child(Clinger, args={"story": story}, shutdown="brutal")))
    await asyncio.sleep(0.1)
    ref: ActorRef[Clinger] = top.which_children()[1].ref
    began = now()
    await ref.kill()
    assert now() - began == pytest.approx(GRACE, abs=0.001)
    with pytest.raises(StartFailed):
        await starting
    assert [row.id for row in top.which_children()] == ["other"]
    await refused(story, mbactor)


@pytest.mark.parametrize("shutdown", ["2s", None])
async def test_a_killed_supervisor_leaves_behind_what_starts_for_ever_below_it(
    mbactor: ActorSystem, story: Story, shutdown: Any
) -> None:
    story.cling_in = "on_start"
    inner = child(
        Supervisor, id="inner", shutdown="3s", args={"children": [child(Clinger, args={"story": story}, shutdown=None)]}
    )
    top = await mbactor.spawn(Supervisor)
    starting = asyncio.ensure_future(top.start_child(inner))
    await asyncio.sleep(0.1)
    began = now()
    await top.terminate_child("inner")
    with pytest.raises(StartFailed, match="did not end"):
        await starting
    assert now() - began <= 3 + 4 * GRACE
    assert top.which_children() == []
    await refused(story, mbactor)
