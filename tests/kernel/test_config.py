"""`config()`: properties of an actor that are set from outside, typed, checked and changed while it runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import pickle
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from mbactor import Actor, ActorSystem, DeclarationError, InvalidSpec, StartFailed, child, config, endpoint
from mbactor.durations import Duration
from mbactor.kernel.properties import Properties, properties_of
from mbactor.kernel.routes import routes_of
from mbactor.secret import Secret, hidden
from mbactor.testing import Probes, Recorder


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Limits:
    most: int
    tags: list[str]


class Orders(Actor):
    """Declares one property of each kind."""

    host = "orders.example"
    max_items: int = config(default=10, validation="int [1,100]", description="in one order")
    api_key: str = config(secret=True, validation="str ^[A-Za-z0-9]+$")
    ratio: float = config(default=0.5)
    live: bool = config(default=False)
    pause: dt.timedelta = config(default=dt.timedelta(seconds=5), validation="dur [1s,15m]")
    every: Duration = config(default="1m")
    mode: Literal["fast", "safe"] = config(default="safe")
    color: Color = config(default=Color.RED)
    level: Level = config(default=Level.LOW, validation="set LOW|HIGH")
    note: str | None = config()
    title: str = config()
    limits: Limits = config(default=Limits(5, ["a"]))
    changes: ClassVar[list[tuple[list[str], int]]] = []

    def __init__(self, factor: int = 1) -> None:
        self.total = self.max_items * factor

    @endpoint
    async def get(self, name: str) -> str:
        return str(self.config[name])

    @endpoint
    async def both(self) -> tuple[int, int]:
        before = self.max_items
        await self.sleep("1s")
        return before, self.max_items

    @endpoint
    async def spoil(self) -> list[str]:
        self.limits.tags.append("b")
        return self.limits.tags

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("boom")

    async def on_config_changed(self, changed: frozenset[str]) -> None:
        self.changes.append((sorted(changed), self.max_items))


@pytest.fixture(autouse=True)
def no_changes() -> None:
    Orders.changes.clear()


KEY = {"api_key": "abc"}


async def started(system: ActorSystem, **given: Any) -> Any:
    return await system.spawn(child(Orders, config={**KEY, **given}))


def change(ref: Any, **given: Any) -> None:
    """As a supervisor does that is told to supervise otherwise."""
    spec = child(Orders, config={**KEY, **given})
    ref.cell.respecify((), {}, spec.config, 5.0)


# --- values -----------------------------------------------------------------------------------------------------


async def test_what_is_not_given_has_its_default(mbactor: ActorSystem) -> None:
    ref = await started(mbactor)
    actor = ref.cell.current.actor
    assert dict(actor.config) == {
        "max_items": 10, "api_key": "abc", "ratio": 0.5, "live": False, "pause": dt.timedelta(seconds=5),
        "every": dt.timedelta(minutes=1), "mode": "safe", "color": Color.RED, "level": Level.LOW, "note": None, "title": "",
        "limits": Limits(5, ["a"]),
    }  # fmt: skip
    assert list(actor.config) == list(properties_of(Orders))


GIVEN: list[tuple[str, Any, Any]] = [
    ("max_items", "20", 20),
    ("ratio", 1, 1.0),
    ("live", "t", True),
    ("pause", "90s", dt.timedelta(seconds=90)),
    ("pause", 90, dt.timedelta(seconds=90)),
    ("every", dt.timedelta(1), dt.timedelta(1)),
    ("mode", "fast", "fast"),
    ("color", "blue", Color.BLUE),
    ("color", Color.BLUE, Color.BLUE),
    ("level", "HIGH", Level.HIGH),
    ("note", "x", "x"),
    ("note", None, None),
    ("limits", {"most": 1, "tags": []}, Limits(1, [])),
    ("limits", Limits(1, []), Limits(1, [])),
]


@pytest.mark.parametrize(("name", "value", "expected"), GIVEN)
def test_a_value_becomes_what_the_annotation_says(name: str, value: Any, expected: Any) -> None:
    found = child(Orders, config={**KEY, name: value}).config
    assert found is not None
    assert (found[name], type(found[name])) == (expected, type(expected))
    assert child(Orders, config=found).config == found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "api_key: missing: Orders needs this property"),
        (KEY | {"max_items": 0}, "max_items: 0 given, a whole number >= 1 and <= 100 expected"),
        (KEY | {"max_itms": 5}, "max_itms: Orders declares no such property, did you mean 'max_items'?"),
        (KEY | {"pause": "1h"}, "pause: '1h' given, a duration >= 1s and <= 15m expected"),
        (KEY | {"color": "bleu"}, "color: 'bleu' given, one of red, blue expected, did you mean 'blue'?"),
        (KEY | {"live": None}, "live: nothing given, true or false expected"),
        (KEY | {"note": 5}, "note: 5 given, null or a text expected"),
        (KEY | {"limits": {"most": "x", "tags": []}}, "limits: {'most': 'x', 'tags': []} given: Expected `int`"),
        ({"api_key": "a b", "max_items": 0, "x": 1}, "x: Orders declares no such property; it declares: max_items, api_key"),
        ({"api_key": "a b", "max_items": 0, "x": 1}, "; max_items: 0 given, a whole number"),
        ({"api_key": "a b", "max_items": 0, "x": 1}, "; api_key: <secret> given, a text that matches"),
        (5, "config: 5 given, a mapping of property names to values expected"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_before_anything_starts(given: Any, text: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(text)) as caught:
        child(Orders, config=given)
    assert "child 'orders': config: " in str(caught.value)
    assert "a b" not in str(caught.value)


async def test_each_incarnation_has_values_of_its_own(mbactor: ActorSystem) -> None:
    ref = await started(mbactor)
    assert await ref.ask(Orders.spoil) == ["a", "b"]
    with pytest.raises(Exception, match="boom"):
        await ref.ask(Orders.crash)
    assert await ref.ask(Orders.spoil) == ["a", "b"]


async def test_properties_are_there_in_the_constructor_and_read_only(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(child(Orders, args={"factor": 3}, config={**KEY, "max_items": 7}))
    actor = ref.cell.current.actor
    assert actor.total == 21
    with pytest.raises(AttributeError, match=r"Orders.max_items is set by the `config` of its child"):
        actor.max_items = 5
    with pytest.raises(TypeError, match="does not support item assignment"):
        actor.config["max_items"] = 5


def test_an_instance_made_by_hand_has_the_defaults_and_takes_what_fits() -> None:
    orders = Orders()
    assert (orders.max_items, orders.total, orders.mode) == (10, 10, "safe")
    with pytest.raises(AttributeError, match=r"Orders.api_key was not given, and it has no default"):
        _ = orders.api_key
    orders.max_items, orders.api_key = 20, "abc"
    assert (orders.max_items, orders.config["api_key"], Orders().max_items) == (20, "abc", 10)
    assert repr(orders.api_key) == "<secret>"
    with pytest.raises(ValueError, match=r"Orders.max_items: 200 given, a whole number >= 1 and <= 100 expected"):
        orders.max_items = 200


async def test_a_class_that_declares_nothing_has_an_empty_configuration(mbactor: ActorSystem) -> None:
    class Plain(Actor):
        @endpoint
        async def count(self) -> int:
            return len(self.config)

    assert await (await mbactor.spawn(Plain)).ask(Plain.count) == 0
    with pytest.raises(InvalidSpec, match="config: items: .*Plain declares no such property; it declares: nothing"):
        child(Plain, config={"items": 5})


async def test_a_probe_needs_no_configuration(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    probe = await mbactor_probe(Orders)
    probe.reply(Orders.get, "5")
    assert await mbactor.ask(Orders.get, "max_items") == "5"


# --- what changes while it runs -------------------------------------------------------------------------------------


async def test_values_change_between_two_messages_and_the_hook_runs(mbactor: ActorSystem) -> None:
    ref = await started(mbactor)
    running = ref.cell.current
    long = asyncio.ensure_future(ref.ask(Orders.both))
    await asyncio.sleep(0.5)
    waiting = asyncio.ensure_future(ref.ask(Orders.get, "max_items"))
    await asyncio.sleep(0)
    change(ref, max_items=30, mode="fast")
    assert (await long, await waiting) == ((10, 10), "30")
    assert Orders.changes == [(["max_items", "mode"], 30)]
    change(ref, mode="fast")
    assert await ref.ask(Orders.get, "max_items") == "10", "what is not given any more has its default again"
    assert ref.cell.current is running


async def test_several_changes_before_the_next_message_are_told_as_one(mbactor: ActorSystem) -> None:
    ref = await started(mbactor)
    change(ref, max_items=20)
    change(ref, max_items=30)
    change(ref, max_items=30, ratio=2)
    await ref.ask(Orders.get, "max_items")
    assert Orders.changes == [(["max_items", "ratio"], 30)]
    change(ref, max_items=40, ratio=2)
    change(ref, max_items=30, ratio=2)
    await ref.ask(Orders.get, "max_items")
    assert len(Orders.changes) == 1


async def test_what_changes_when_it_crashes_is_the_next_incarnations_from_the_start(mbactor: ActorSystem) -> None:
    ref = await started(mbactor)
    crash = asyncio.ensure_future(ref.ask(Orders.crash))
    await asyncio.sleep(0)
    change(ref, max_items=30)
    with pytest.raises(Exception, match="boom"):
        await crash
    assert await ref.ask(Orders.get, "max_items") == "30"
    assert ref.cell.incarnation == 2
    assert Orders.changes == []
    assert not mbactor.dead_letters


async def test_a_hook_that_raises_is_a_crash_and_the_next_incarnation_has_the_new_values(mbactor: ActorSystem) -> None:
    class Touchy(Actor):
        size: int = config(default=1)

        async def on_config_changed(self, changed: frozenset[str]) -> None:
            raise RuntimeError("no")

        @endpoint
        async def get(self) -> int:
            return self.size

    ref = await mbactor.spawn(child(Touchy))
    ref.cell.respecify((), {}, {"size": 2}, 5.0)
    assert await ref.ask(Touchy.get) == 2
    assert ref.cell.incarnation == 2


# --- secrets ------------------------------------------------------------------------------------------------------


async def test_a_secret_is_a_text_that_is_not_shown(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    class Holder(Actor):
        key: str = config(secret=True)

        @endpoint
        async def use(self) -> str:
            self.log.warning("using it", key=self.key, all=self.config, listed=[self.key])
            return await self.ref.cell.node.refs["echo"].ask(Echo.say, self.key)

    class Echo(Actor):
        @endpoint
        async def say(self, text: str) -> str:
            return text

    mbactor.refs.register("echo", await mbactor.spawn(Echo))
    spec = child(Holder, config={"key": "hunter2"})
    assert "hunter2" not in repr(spec)
    ref = await mbactor.spawn(spec)
    assert await ref.ask(Holder.use) == "hunter2", "whoever it is sent to has it"
    assert "hunter2" not in repr(ref.cell.current.actor.config)
    logged = await mbactor_recorder.wait_for("log")
    assert logged.fields["key"] == "<secret>"
    assert "hunter2" not in str(logged.fields)
    found = pickle.loads(pickle.dumps(spec.config))
    assert found == {"key": "hunter2"}
    assert type(found["key"]) is Secret


def test_what_comes_from_a_file_stays_hidden_and_is_a_text() -> None:
    found = child(Orders, config={"api_key": "a", "title": Secret("hunter2")}).config
    assert "hunter2" not in repr(found)
    for name in ("max_items", "mode", "color"):
        with pytest.raises(InvalidSpec, match=f"{name}: <secret> given") as caught:
            child(Orders, config={"api_key": "a", name: Secret({"max_items": "5"}.get(name, "red"))})
        assert "'red'" not in str(caught.value)


def test_hidden_hides_within_values() -> None:
    value = {"a": [Secret("x"), (Secret("y"), 1)], "b": frozenset({Secret("z")}), "c": "plain"}
    assert hidden(value) == {"a": ["<secret>", ("<secret>", 1)], "b": frozenset({"<secret>"}), "c": "plain"}


# --- declarations -------------------------------------------------------------------------------------------------


class Wholesale(Orders):
    max_items: int = config(default=1000, validation="int [1,10000]")
    depot: str = config(validation="set north|south", default="north")


def test_properties_are_inherited_and_may_be_declared_anew() -> None:
    declared = properties_of(Wholesale)
    assert list(declared) == [*properties_of(Orders), "depot"]
    assert declared["max_items"].default == 1000
    assert child(Wholesale, config={**KEY, "max_items": 5000}).config == {**KEY, "max_items": 5000}


def test_a_declaration_is_read_once() -> None:
    assert isinstance(properties_of(Orders), Properties)
    assert properties_of(Orders) is properties_of(Orders)
    assert properties_of(Orders)["max_items"].description == "in one order"


def test_what_has_no_default_has_to_be_given_unless_nothing_is_a_value() -> None:
    class Needs(Actor):
        number: int = config()
        empty: int = config(default="", validation="int")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        name: str = config(default="", validation="str ^x")
        plain: str = config()
        maybe: int | None = config()

    with pytest.raises(InvalidSpec) as caught:
        child(Needs)
    assert re.findall(r"(\w+): missing", str(caught.value)) == ["number", "empty", "name"]


DECLARATIONS: list[tuple[str, str]] = [
    ("x: int = config(default=0, validation='int [1,100]')", "X.x: default: 0 given, a whole number >= 1 and <= 100"),
    ("x: int = config(default='ten')", "X.x: default: 'ten' given, a whole number expected"),
    ("x: int = config(default=None)", "X.x: default: nothing given, a whole number expected"),
    ("x: int = config(validation='int [5,1]')", "X.x: validation 'int [5,1]': nothing is within the range '[5,1]'"),
    ("x: int = config(validation='dur')", "X.x: validation 'dur' given, a rule for what the annotation is (a whole number)"),
    ("x: list[int] = config(validation='int')", "X.x: validation 'int' given; its type alone says what is allowed"),
    ("x: Literal['a'] = config(validation='set a|b')", "X.x: validation: 'b' given, one of a expected"),
    ("x = config(default=5)", "X.x: no annotation; `x: int = config(...)` or the like expected"),
    ("x: 'Nowhere' = config()", "X.x: annotation 'Nowhere' cannot be resolved; is it imported at run time?"),
    ("y: Actor = config()", "X.y has type Actor, which cannot travel"),
    ("x: int = config(secret=True)", "X.x: secret: only a text can be one; the annotation `str` expected"),
    ("x: str = config(secret=True, default='hunter2', validation='url')", "X.x: default: <secret> given, a URL"),
    ("_x: int = config()", "X._x: the name of a property begins with a letter"),
    ("supervisor: str = config()", "X.supervisor: every actor has a 'supervisor' of its own; choose another name"),
    ("config_: int = config(validation=5)", "config: validation: 5 given, a text such as 'int [1,100]' expected"),
    ("async def on_config_changed(self) -> None: ...", "X.on_config_changed is called as self.on_config_changed(changed)"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "text"), DECLARATIONS)
def test_a_wrong_declaration_names_the_class_and_the_property(body: str, text: str) -> None:
    names: dict[str, Any] = {"Actor": Actor, "config": config, "__name__": __name__}

    def declare() -> None:
        exec(f"class X(Actor):\n    {body}\n", names)
        routes_of(names["X"])

    with pytest.raises(DeclarationError, match=re.escape(text)) as caught:
        declare()
    assert "hunter2" not in str(caught.value)


def test_a_property_is_not_overridden_by_a_plain_attribute() -> None:
    class Sub(Orders):
        max_items = 5

    with pytest.raises(DeclarationError, match=r"Sub.max_items overrides the property Orders.max_items; `max_items:"):
        child(Sub)


async def test_a_class_in_a_function_may_have_types_of_that_function(mbactor: ActorSystem) -> None:
    class Size(enum.Enum):
        S = "s"
        L = "l"

    class Shirt(Actor):
        size: Size = config(default=Size.S)

        @endpoint
        async def get(self) -> str:
            return self.size.value

    assert await (await mbactor.spawn(child(Shirt, config={"size": "l"}))).ask(Shirt.get) == "l"


async def test_a_spawn_without_what_is_needed_is_refused(mbactor: ActorSystem) -> None:
    with pytest.raises((InvalidSpec, StartFailed), match="api_key: missing: Orders needs this property"):
        await mbactor.spawn(Orders)
