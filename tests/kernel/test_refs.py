"""Refs: compared, kept, sent along, and found by name."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from mbactor import (
    Actor,
    ActorRef,
    ActorStopped,
    ActorSystem,
    BadRequest,
    MbactorError,
    NameTaken,
    Unavailable,
    child,
    endpoint,
)
from mbactor.errors import DeclarationError, NoSuchActor, NoSuchName
from mbactor.kernel.ref import RemoteRef, ref_of_url
from mbactor.transport import LocalBus


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param("handed over", marks=pytest.mark.mbactor(serialize_local=False)),
        pytest.param("serialized", marks=pytest.mark.mbactor(serialize_local=True)),
    ],
)
def values(request: pytest.FixtureRequest) -> Any:
    """Each rule holds however values pass between actors."""
    return request.param


class Letter(msgspec.Struct):
    """A message with refs at several depths."""

    to: ActorRef[Any]
    copies: list[ActorRef[Any]] = []
    by_name: dict[str, ActorRef[Any]] = {}
    maybe: ActorRef[Any] | None = None
    nested: Letter | None = None


class Post(Actor):
    """Passes refs on."""

    host = "post.example"

    @endpoint
    async def me(self) -> str:
        return self.id

    @endpoint
    async def myself(self) -> ActorRef[Any]:
        return self.ref

    @endpoint
    async def struct(self, letter: Letter) -> Letter:
        return letter

    @endpoint
    async def several(self, refs: list[ActorRef[Any]]) -> dict[str, ActorRef[Any]]:
        return {ref.id: ref for ref in refs}

    @endpoint
    async def either(self, one: ActorRef[Any] | None) -> ActorRef[Any] | None:
        return one

    @endpoint
    async def ask_it(self, ref: ActorRef[Post]) -> str:
        return await ref.ask(Post.me)

    @endpoint
    async def tell_it(self, ref: ActorRef[Post]) -> bool:
        return ref.tell(Post.me)

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def call_me(self, name: str) -> None:
        self.refs.register(name, self.ref)

    @endpoint
    async def find(self, name: str) -> str:
        return (await self.refs[name].ask(Post.me)) if name in self.refs else "nobody"


class Far(Post):
    """The same at another host."""

    host = "far.example"


class Hidden(Actor):
    """Has no host."""

    @endpoint
    async def me(self) -> str:
        return self.id


# --- one ref ---------------------------------------------------------------------------------------------------------


async def test_refs_of_one_actor_are_equal_and_of_two_are_not(mbactor: ActorSystem) -> None:
    one, other = await mbactor.spawn(Post), await mbactor.spawn(Post)
    again = await one.ask(Post.myself)
    assert one == again
    assert one != other
    assert one != "post"
    assert hash(one) == hash(again)
    assert len({one, again, other}) == 2


async def test_a_ref_is_the_same_after_a_restart(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(Post)
    kept, before = {ref: "kept"}, await ref.ask(Post.me)
    ref.tell(Post.crash)
    await asyncio.sleep(10)
    again = await ref.ask(Post.myself)
    assert await ref.ask(Post.me) != before
    assert kept[again] == "kept"


async def test_a_ref_prints_class_host_and_id(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(child(Post, id="main"))
    assert repr(ref) == "ActorRef(Post post.example#main)"
    assert (ref.id, ref.host, ref.address) == ("main", "post.example", "post.example#main")


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda ref: pickle.loads(pickle.dumps(ref))])
@pytest.mark.parametrize("cls", [Post, Hidden])
async def test_a_copied_ref_reaches_the_same_actor(mbactor: ActorSystem, make: Any, cls: Any) -> None:
    ref = await mbactor.spawn(cls)
    made = make({"kept": [ref]})["kept"][0]
    assert made == ref
    assert hash(made) == hash(ref)
    assert await made.ask(cls.me) == await ref.ask(cls.me)


async def test_a_ref_to_an_ended_actor_is_refused_and_its_tells_are_dead_letters(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(Post)
    through = pickle.dumps(ref)
    await ref.stop()
    for one in (ref, pickle.loads(through)):
        with pytest.raises(ActorStopped):
            await one.ask(Post.me)
        assert one.tell(Post.me) is False
    assert [letter.method for letter in mbactor.dead_letters] == ["me", "me"]


# --- refs within values ----------------------------------------------------------------------------------------------


async def test_a_ref_may_be_anywhere_in_a_struct(mbactor: ActorSystem) -> None:
    one, other, hidden = await mbactor.spawn(Post), await mbactor.spawn(Post), await mbactor.spawn(Hidden)
    letter = Letter(one, [other, hidden], {"a": hidden}, other, Letter(hidden))
    assert await one.ask(Post.struct, letter) == letter


async def test_refs_may_be_in_lists_and_come_back_in_dicts(mbactor: ActorSystem) -> None:
    refs = [await mbactor.spawn(Post) for _ in range(3)]
    assert await refs[0].ask(Post.several, refs) == {ref.id: ref for ref in refs}


async def test_refs_may_be_keys_and_in_sets(mbactor: ActorSystem) -> None:
    class Keeper(Actor):
        @endpoint
        async def counts(self, by_ref: dict[ActorRef[Post], list[ActorRef[Post]]]) -> dict[ActorRef[Post], int]:
            return {ref: len(refs) for ref, refs in by_ref.items()}

        @endpoint
        async def all_of(self, some: set[ActorRef[Post]], more: frozenset[ActorRef[Post]]) -> set[ActorRef[Post]]:
            return some | more

    one, other, keeper = await mbactor.spawn(Post), await mbactor.spawn(Post), await mbactor.spawn(Keeper)
    assert await keeper.ask(Keeper.counts, {one: [one, other], other: []}) == {one: 2, other: 0}
    assert await keeper.ask(Keeper.all_of, {one}, frozenset({other})) == {one, other}


async def test_a_ref_may_be_absent(mbactor: ActorSystem) -> None:
    one, other = await mbactor.spawn(Post), await mbactor.spawn(Hidden)
    assert await one.ask(Post.either, other) == other
    assert await one.ask(Post.either, None) is None


async def test_a_union_of_a_ref_and_more_than_none_is_an_error_of_the_declaration(mbactor: ActorSystem) -> None:
    class Torn(Actor):
        @endpoint
        async def see(self, one: ActorRef[Any] | int) -> None: ...

    with pytest.raises(DeclarationError, match="parameter 'one'"):
        (await mbactor.spawn(Torn)).tell(Torn.see, 5)


async def test_a_ref_that_was_sent_along_is_asked_and_told(mbactor: ActorSystem) -> None:
    one, other = await mbactor.spawn(Post), await mbactor.spawn(Post)
    assert await one.ask(Post.ask_it, other) == await other.ask(Post.me)
    assert await one.ask(Post.tell_it, other) is True


async def test_an_ended_actors_ref_may_still_be_sent_along(mbactor: ActorSystem) -> None:
    one, other = await mbactor.spawn(Post), await mbactor.spawn(Post)
    await other.stop()
    assert await one.ask(Post.either, other) == other
    with pytest.raises(ActorStopped):
        await one.ask(Post.ask_it, other)


async def test_a_request_carries_a_ref_as_a_text(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Post)
    other = await mbactor.spawn(Post)
    answer = await mbactor.request("POST", "https://post.example/either", {"one": other.url})
    assert answer.json() == other.url
    far = await mbactor.spawn(Far)
    answer = await mbactor.request("POST", "https://post.example/ask-it", {"ref": far.url})
    assert answer.json() == await far.ask(Post.me)


@pytest.mark.parametrize("wrong", ["nope", "mbactor:a/b", 5, ["mbactor:a/b/c/d"], "", None])
async def test_what_is_no_ref_is_a_400_that_names_the_field(mbactor: ActorSystem, wrong: Any) -> None:
    await mbactor.spawn(Post)
    with pytest.raises(BadRequest) as error:
        await mbactor.request("POST", "https://post.example/ask-it", {"ref": wrong})
    assert error.value.status == 400
    assert "ref" in str(error.value)
    with pytest.raises(BadRequest, match="copies"):
        await mbactor.request(
            "POST", "https://post.example/struct", {"letter": {"to": "mbactor:a/b/c/d", "copies": [wrong]}}
        )


def test_what_is_no_ref_is_read_as_none() -> None:
    for text in ("nope", "mbactor:node/replica/host", "https://node/replica/host/id"):
        with pytest.raises(BadRequest, match=f"'{text}' is no reference to an actor; expected mbactor:<node>/"):
            ref_of_url(text)


# --- another process --------------------------------------------------------------------------------------------------


class Away(Actor):
    """Uses refs to actors of another system as that system's own process would have sent them."""

    host = "away.example"

    @endpoint
    async def ask_each(self, refs: list[ActorRef[Post]]) -> list[str]:
        return [await ref.ask(Post.me) for ref in refs]

    @endpoint
    async def tell_it(self, ref: ActorRef[Post]) -> bool:
        return ref.tell(Post.me)

    @endpoint
    async def tell_it_and_wait(self, ref: ActorRef[Post]) -> None:
        await ref.tell_wait(Post.me)

    @endpoint
    async def back(self, ref: ActorRef[Post]) -> ActorRef[Post]:
        return ref

    @endpoint(thread=True)
    def ask_in_a_thread(self, ref: ActorRef[Any]) -> str:
        return str(ref.ask(Post.me).result())

    @endpoint(thread=True)
    def tell_in_a_thread(self, ref: ActorRef[Any]) -> bool:
        return ref.tell(Post.call_me, "told")

    @endpoint
    async def refuses(self, ref: ActorRef[Any]) -> list[str]:
        refused = []
        for act in (lambda: self.watch(ref), ref.statistics, lambda: self.refs.register("far", ref)):
            try:
                act()
            except Unavailable as error:
                refused.append(str(error))
        for end in (ref.stop, ref.kill):
            try:
                await end()
            except Unavailable as error:
                refused.append(str(error))
        return refused


@asynccontextmanager
async def two_systems() -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
    bus = LocalBus()
    async with ActorSystem("one", transport=bus) as one, ActorSystem("two", transport=bus) as two:
        yield one, two


def as_elsewhere(ref: ActorRef[Any]) -> ActorRef[Any]:
    """The ref as another process reads it: no system there has this id."""
    _, replica, host, id = ref.url.split("/", 3)
    made = ref_of_url(f"mbactor:elsewhere/{replica}/{host}/{id}")
    assert isinstance(made, RemoteRef)
    return made


async def test_a_ref_from_another_process_reaches_that_very_replica(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        posts = [await one.spawn(Post) for _ in range(3)]
        away = await two.spawn(Away)
        sent = [as_elsewhere(posts[number]) for number in (0, 1, 2, 1, 1, 0)]
        ids = [await post.ask(Post.me) for post in posts]
        assert await away.ask(Away.ask_each, sent) == [ids[number] for number in (0, 1, 2, 1, 1, 0)]
        assert await away.ask(Away.tell_it, sent[0]) is True
        await away.ask(Away.tell_it_and_wait, sent[0])


async def test_a_ref_from_another_process_compares_by_its_replica_and_travels_on(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        post, other = await one.spawn(Post), await one.spawn(Post)
        away = await two.spawn(Away)
        ref = as_elsewhere(post)
        assert ref == as_elsewhere(post)
        assert ref != as_elsewhere(other)
        assert hash(ref) == hash(as_elsewhere(post))
        assert pickle.loads(pickle.dumps(ref)) == ref
        assert await away.ask(Away.back, ref) == ref
        assert (ref.id, ref.host, ref.address) == (post.id, post.host, post.address)
        assert "elsewhere" in repr(ref)


async def test_an_actor_of_another_process_cannot_be_watched_named_or_stopped_through_its_ref(
    mbactor_loop: object,
) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        post, away = await one.spawn(Post), await two.spawn(Away)
        refused = await away.ask(Away.refuses, as_elsewhere(post))
        assert len(refused) == 5
        assert all("another process" in one for one in refused)
        assert await post.ask(Post.me)


async def test_an_actor_of_another_process_without_a_host_is_not_reached(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        hidden, away = await one.spawn(Hidden), await two.spawn(Away)
        with pytest.raises(NoSuchActor):
            await away.ask(Away.ask_each, [as_elsewhere(hidden)])
        assert await away.ask(Away.tell_it, as_elsewhere(hidden)) is False
        with pytest.raises(NoSuchActor, match="has no host"):
            await away.ask(Away.tell_it_and_wait, as_elsewhere(hidden))
        [letter] = two.dead_letters
        assert (letter.method, letter.sender) == ("me", "away.example/tell-it")
        assert "has no host" in letter.reason


async def test_a_ref_from_another_process_is_asked_and_told_in_a_thread(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        post, hidden, away = await one.spawn(Post), await one.spawn(Hidden), await two.spawn(Away)
        assert await away.ask(Away.ask_in_a_thread, as_elsewhere(post)) == await post.ask(Post.me)
        assert await away.ask(Away.tell_in_a_thread, as_elsewhere(post)) is True
        await asyncio.sleep(1)
        assert one.refs["told"] == post
        assert await away.ask(Away.tell_in_a_thread, as_elsewhere(hidden)) is False
        with pytest.raises(NoSuchActor, match="no host"):
            await away.ask(Away.ask_in_a_thread, as_elsewhere(hidden))


async def test_a_ref_from_another_process_to_an_ended_actor_reaches_no_other_replica(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        post, other, away = await one.spawn(Post), await one.spawn(Post), await two.spawn(Away)
        ref = as_elsewhere(post)
        await post.stop()
        with pytest.raises(NoSuchActor):
            await away.ask(Away.ask_each, [ref])
        assert await away.ask(Away.ask_each, [as_elsewhere(other)])


async def test_a_ref_that_goes_over_the_bus_between_two_systems_arrives_as_the_same_actor(mbactor_loop: object) -> None:
    del mbactor_loop
    async with two_systems() as (one, two):
        post = await one.spawn(Post)
        await two.spawn(Away)
        assert await one.ask(Away.back, post) == post
        assert await one.ask(Away.ask_each, [post]) == [await post.ask(Post.me)]


# --- names --------------------------------------------------------------------------------------------------------------


async def test_an_actor_is_found_by_its_name(mbactor: ActorSystem) -> None:
    post, other = await mbactor.spawn(Post), await mbactor.spawn(Post)
    mbactor.refs.register("till", post)
    await other.ask(Post.call_me, "counter")
    assert mbactor.refs["till"] == post
    assert mbactor.refs.get("counter") == other
    assert await other.ask(Post.find, "till") == await post.ask(Post.me)
    assert sorted(mbactor.refs) == ["counter", "till"]
    assert "till" in mbactor.refs
    assert len(mbactor.refs) == 2


async def test_a_name_nobody_has_is_not_found(mbactor: ActorSystem) -> None:
    assert mbactor.refs.get("nobody") is None
    assert "nobody" not in mbactor.refs
    with pytest.raises(NoSuchName):
        mbactor.refs["nobody"]
    with pytest.raises(NoSuchName):
        mbactor.refs.release("nobody")


async def test_a_name_belongs_to_one_actor_at_a_time(mbactor: ActorSystem) -> None:
    post, other = await mbactor.spawn(Post), await mbactor.spawn(Post)
    mbactor.refs.register("till", post)
    mbactor.refs.register("till", post)
    with pytest.raises(NameTaken) as error:
        mbactor.refs.register("till", other)
    assert error.value.status == 409
    assert post.address in str(error.value)
    mbactor.refs.release("till")
    mbactor.refs.register("till", other)
    assert mbactor.refs["till"] == other


async def test_an_actor_may_have_several_names(mbactor: ActorSystem) -> None:
    post = await mbactor.spawn(Post)
    for name in ("a", "b", "c"):
        mbactor.refs.register(name, post)
    mbactor.refs.release("b")
    assert sorted(mbactor.refs) == ["a", "c"]
    await post.stop()
    assert list(mbactor.refs) == []


async def test_a_name_is_kept_over_restarts(mbactor: ActorSystem) -> None:
    post = await mbactor.spawn(Post)
    mbactor.refs.register("till", post)
    before = await post.ask(Post.me)
    post.tell(Post.crash)
    await asyncio.sleep(10)
    after = await mbactor.refs["till"].ask(Post.me)
    assert after != before
    await post.ask(Post.call_me, "till")


@pytest.mark.parametrize("how", ["stop", "kill", "temporary"])
async def test_a_name_is_released_when_its_actor_ends_for_good(mbactor: ActorSystem, how: str) -> None:
    post = await mbactor.spawn(child(Post, id="first", restart="temporary" if how == "temporary" else "permanent"))
    mbactor.refs.register("till", post)
    if how == "temporary":
        post.tell(Post.crash)
        await asyncio.sleep(1)
    else:
        await getattr(post, how)()
    assert "till" not in mbactor.refs
    other = await mbactor.spawn(Post)
    mbactor.refs.register("till", other)
    assert mbactor.refs["till"] == other


async def test_a_name_taken_in_a_start_that_fails_is_free_again(mbactor: ActorSystem) -> None:
    class Fails(Actor):
        async def on_start(self) -> None:
            self.refs.register("till", self.ref)
            raise ValueError("no")

    with pytest.raises(MbactorError):
        await mbactor.spawn(Fails)
    assert "till" not in mbactor.refs
    mbactor.refs.register("till", await mbactor.spawn(Post))


async def test_an_ended_actor_takes_no_name(mbactor: ActorSystem) -> None:
    post = await mbactor.spawn(Post)
    await post.stop()
    with pytest.raises(ActorStopped):
        mbactor.refs.register("till", post)
    assert "till" not in mbactor.refs
