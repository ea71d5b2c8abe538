"""A topology file is read into specifications, or refused with every fault and its position."""

from __future__ import annotations

import datetime as dt
import os
import pickle
from pathlib import Path

import pytest

from mbactor import Actor, ActorCrashed, ActorSystem, endpoint
from mbactor.mailbox import Mailbox
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology import TopologyError, load
from mbactor.supervisor.topology.interpolation import Sources, interpolate
from mbactor.supervisor.topology.render import as_yaml
from tests.supervisor.topology_parts import MODULE, child_faults, children, faults, read


class Basket(Actor):
    """Keeps what it was constructed with, as one does."""

    def __init__(self, items: list[str], prices: dict[str, list[int]]) -> None:
        self.items, self.prices = items, prices

    @endpoint
    async def put(self, item: str) -> list[str]:
        self.items.append(item)
        self.prices["pen"].append(7)
        return self.items

    @endpoint
    async def crash(self) -> None:
        raise ValueError(self.items)

    @endpoint
    async def all(self) -> tuple[list[str], dict[str, list[int]]]:
        return self.items, self.prices


@pytest.mark.anyio
async def test_each_replica_and_each_incarnation_begins_with_what_the_file_says(folder: Path) -> None:
    text = """
    - actor: tests.supervisor.test_topology:Basket
      replicas: 2
      args: {items: [cup], prices: {pen: [2]}}
    """
    spec = children(folder, text)
    async with ActorSystem() as system:
        one, other = [await system.spawn(child) for child in spec.children]
        assert await one.ask(Basket.put, "pen") == ["cup", "pen"]
        assert await other.ask(Basket.all) == (["cup"], {"pen": [2]})
        with pytest.raises(ActorCrashed):
            await one.ask(Basket.crash)
        assert await one.ask(Basket.all) == (["cup"], {"pen": [2]})
    assert spec == children(folder, text)
    assert pickle.loads(pickle.dumps(spec)) == spec  # for a process of its own


def test_a_whole_file_becomes_specifications(folder: Path) -> None:
    topology = read(
        folder,
        """
        version: 1
        name: shop
        transport: local
        supervisor:
          strategy: rest_for_one
          max_restarts: 5
          within: 1m30s
          children:
            - actor: shop_for_test:Orders
              id: orders
              replicas: 2
              restart: transient
              shutdown: 500ms
              backoff: {initial: 100ms, maximum: 10s, jitter: 0}
              mailbox: {capacity: 10, overflow: drop_oldest}
              args: {start: 10, every: 5s, tags: [on, 012, 1]}
            - supervisor: pipelines
              strategy: one_for_all
              children:
                - actor: shop_for_test:Orders
                  shutdown: brutal
                - supervisor: shop_for_test:Tree
                  shutdown: infinity
        """,
    )
    assert (topology.name, topology.transport) == ("shop", "local")
    spec = topology.supervisor
    assert (spec.strategy, spec.max_restarts, spec.within) == ("rest_for_one", 5, 90.0)
    assert [one.id for one in spec.children] == ["orders-1", "orders-2", "pipelines"]
    first = spec.children[0]
    assert (first.restart, first.shutdown, first.backoff) == ("transient", 0.5, Backoff(0.1, 10, jitter=0))
    assert first.mailbox == Mailbox(capacity=10, overflow="drop_oldest")
    assert first.config is None
    assert first.args == {"start": 10, "every": "5s", "tags": ["on", "012", "1"]}
    nested = spec.children[2]
    assert (nested.target, nested.kind, nested.shutdown) == (Supervisor, "supervisor", None)
    inner = Supervisor(**nested.args).spec()
    assert inner.strategy == "one_for_all"
    assert [(one.id, one.kind, one.shutdown) for one in inner.children] == [
        ("orders", "actor", 0.0),
        ("tree", "supervisor", None),
    ]
    assert Supervisor.from_spec(spec).spec() == spec


def test_a_broker_may_stand_for_the_local_transport(folder: Path) -> None:
    topology = read(folder, "version: 1\ntransport: nats://h:1,nats://i\nsupervisor: {}\n")
    assert topology.transport == "nats://h:1,nats://i"


def test_the_password_of_a_broker_may_be_a_secret(folder: Path) -> None:
    (folder / "password").write_text("s3cret\n")
    text = 'version: 1\ntransport: "nats://ann:${file:password}@h:1"\nsupervisor: {}\n'
    topology = read(folder, text)
    assert topology.transport == "nats://ann:s3cret@h:1"
    assert "s3cret" not in repr(topology)
    assert "nats://ann:${file:" in as_yaml(topology.document)
    (folder / "password").write_text("s3c/ret\n")
    with pytest.raises(TopologyError) as raised:
        read(folder, text)
    assert "tree.yaml:2:12: transport: 'nats://h:1' given" in str(raised.value)
    assert "before the @ a '/' is to be written %2F" in str(raised.value)
    (folder / "password").unlink()
    with pytest.raises(TopologyError, match="tree.yaml:2:12: transport: the secret's file .* cannot be read"):
        read(folder, text)
    assert topology.locality == ""
    assert topology.ack_window == 1.0
    assert read(folder, "version: 1\nack_window: 300ms\nsupervisor: {}\n").ack_window == 0.3
    assert (topology.max_body, topology.coalesce) == (1 << 30, True)
    topology = read(folder, "version: 1\nmax_body: ${MOST:-5000}\ncoalesce: false\nsupervisor: {}\n")
    assert (topology.max_body, topology.coalesce) == (5000, False)


def test_a_file_says_where_its_part_of_the_system_runs(folder: Path) -> None:
    text = "version: 1\nlocality: ${NOWHERE:-eu-west-b-1}\nsupervisor: {}\n"
    assert read(folder, text).locality == "eu-west-b-1"
    assert read(folder, text.replace("eu-west-b-1", "")).locality == ""


def test_three_mistakes_are_reported_in_one_run_with_line_and_column(folder: Path) -> None:
    found = faults(
        folder,
        """\
        version: 1
        supervisor:
          children:
            - actor: shop_for_test:Orders
              restrat: transient
            - actor: shop_for_test:Ordres
              id: second
            - actor: shop_for_test:Needs
              id: orders
              args: {point: {x: 1}}
        """,
    )
    assert found == [
        "tree.yaml:5:7: supervisor.children[0].restrat: unknown key, did you mean 'restart'?",
        "tree.yaml:6:14: supervisor.children[1].actor: module shop_for_test has no 'Ordres', did you mean 'Orders'?",
        "tree.yaml:9:11: supervisor.children[2].id: the id 'orders' is given twice in this supervisor "
        f"(first at {folder}/tree.yaml:4:7)".replace(f"{folder}/", ""),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "tree.yaml:1:1: the file is empty"),
        ("# only a comment\n", "tree.yaml:1:1: the file is empty"),
        ("- a\n", "tree.yaml:1:1: a list given, a mapping"),
        ("version: 1\nsupervisor: {children: [}\n", "tree.yaml:2:25: not YAML: while parsing a flow node"),
        ("version: 1\nsupervisor:\n\tchildren: []\n", "tree.yaml:3:1: not YAML: while scanning for the next token"),
        ("version: 1\nsupervisor:\n\tchildren: []\n", "(YAML indents with spaces, not with tabs)"),
        ("version: 1\nsupervisor: {chidren: []}\n", "tree.yaml:2:14: supervisor.chidren: unknown key, did you mean"),
        ("version: 1\nname: a\x07b\n", "tree.yaml:1:1: not YAML: unacceptable character #x0007"),
        ("version: 1\n---\nversion: 1\n", "tree.yaml:2:1: not YAML: expected a single document"),
        ("supervisor: {}\n", "tree.yaml:1:1: version: missing, `version: 1` expected"),
        ("version: 2\nsupervisor: {}\n", "tree.yaml:1:10: version: '2' given, 1 expected"),
        ("version: 1\n", "tree.yaml:1:1: supervisor: missing"),
        (
            "version: 1\nversion: 1\nsupervisor: {}\n",
            "tree.yaml:2:1: version: the key is given twice (first in line 1)",
        ),
        ("version: 1\nsupervisor: {}\nnmae: x\n", "tree.yaml:3:1: nmae: unknown key, did you mean 'name'?"),
        (
            "version: 1\nsupervisor: {within: 5}\n",
            "tree.yaml:2:22: supervisor.within: '5' given, a duration with its unit",
        ),
        (
            "version: 1\nsupervisor: {max_restarts: -1}\n",
            "supervisor.max_restarts: '-1' given, a whole number >= 0 expected",
        ),
        ("version: 1\nsupervisor: {strategy: one_for_al}\n", "expected, did you mean 'one_for_all'?"),
        ("version: 1\nsupervisor: {children: {}}\n", "supervisor.children: a mapping given, a list expected"),
        (
            "version: 1\ntransport: nats://ann:s3cret@h:x\nsupervisor: {}\n",
            "tree.yaml:2:12: transport: 'nats://h:x' given, nats://host:port expected",
        ),
        ("version: 1\nack_window: 0s\nsupervisor: {}\n", "tree.yaml:2:13: ack_window: 0 given, a duration above 0"),
        ("version: 1\nack_window: 1\nsupervisor: {}\n", "tree.yaml:2:13: ack_window: '1' given"),
        ("version: 1\nmax_body: 0\nsupervisor: {}\n", "tree.yaml:2:11: max_body: '0' given, a whole number >= 1"),
        ("version: 1\ncoalesce: no\nsupervisor: {}\n", "tree.yaml:2:11: coalesce: 'no' given, true or false"),
        ("version: 1\nlocality: EU\nsupervisor: {}\n", "tree.yaml:2:11: locality: 'EU' given; lower-case letters"),
        ("version: 1\ntransport: http://h\nsupervisor: {}\n", "'http://h' given, local, embedded or nats://host:port"),
        ("version: 1\ntransport: embeded\nsupervisor: {}\n", "expected, did you mean 'embedded'?"),
        (
            "version: 1\nsupervisor: {children: [gateway: {port: 99999}]}\n",
            "gateway.port: 99999 given, int <= 65535 expected",
        ),
        (
            "version: 1\nsupervisor: {children: [{gateway: {body_limit: -1}}]}\n",
            "gateway.body_limit: -1 given, int >= 0 expected",
        ),
        (
            "version: 1\nsupervisor: {children: [{gateway: {port: }}]}\n",
            "gateway.port: nothing given, int expected",
        ),
        (
            "version: 1\nsupervisor: {children: [foreman: {workers: 0}]}\n",
            "foreman.workers: 0 given, int >= 1 expected",
        ),
        ("version: 1\nsupervisor: !!python/none {}\n", "the tag"),
        ("version: 1\nsupervisor: {}\n? [a]\n: b\n", "tree.yaml:3:3: a list or mapping given as a key"),
        ("version: 1\nsupervisor: &a {children: [*a]}\n", "aliases repeat this without end"),
        ("version: 1\nsupervisor: " + "[" * 2000 + "\n", "the file is nested too deeply"),
        ("version: 1\nsupervisor: {within: }\n", "supervisor.within: nothing given"),
        ('version: 1\nname: "a\\0b"\nsupervisor: {}\n', r"name: 'a\x00b' given, a text without slashes and control"),
        ("version: 1\nname: a/b\nsupervisor: {}\n", "tree.yaml:2:7: name: 'a/b' given, a text without slashes and"),
    ],
)
def test_a_faulty_file_is_refused_where_the_fault_is(folder: Path, text: str, problem: str) -> None:
    assert any(problem in found for found in faults(folder, text))


def test_a_file_that_is_not_there_or_not_text_is_refused(folder: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read: No such file"):
        load(folder / "none.yaml", {})
    (folder / "bytes.yaml").write_bytes(b"version: \xff\n")
    with pytest.raises(TopologyError, match="not UTF-8: byte 9 is 0xff"):
        load(folder / "bytes.yaml", {})
    with pytest.raises(TopologyError, match="cannot be read: embedded null byte"):
        load(folder / "a\0b.yaml", {})
    with pytest.raises(TopologyError, match="cannot be read: it has more than 16 MB"):
        load(Path("/dev/zero"), {})


def test_aliases_that_multiply_without_measure_are_refused(folder: Path) -> None:
    lines = ["version: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(8)]
    assert any("without end" in found for found in faults(folder, "\n".join(lines)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "- actor: nothing_here:Orders",
            "tree.yaml:4:14: supervisor.children[0].actor: there is no module 'nothing_here'",
        ),
        (
            "- actor: broken_for_test:Orders",
            "module 'broken_for_test' cannot be imported (broken_for_test.py, line 2): ValueError: at import",
        ),
        ("- actor: deep_for_test:Orders", "module 'deep_for_test' cannot be imported (deep_for_test.py, line 3): JSON"),
        ("- actor: shop_for_test", "'shop_for_test' given, `module:Class` expected"),
        (
            "- actor: shop_for_test.Shop",
            "'shop_for_test.Shop' given, `module:Class` expected, did you mean 'shop_for_test:Shop'?",
        ),
        (
            "- actor: shop_for_test:Plain",
            "shop_for_test:Plain is <class 'shop_for_test.Plain'>, an Actor or Supervisor class expected",
        ),
        ("- actor: 'shop_for_test:'", "'shop_for_test:' given, `module:Class` expected"),
        ("- actor: shop/for_test:Orders", "'shop/for_test:Orders' given, `module:Class` expected"),
        (
            "- actor: shop_for_test:Takes\n  args: {odd: {number: 2}}",
            "args.odd: {'number': 2} given: number: 2 given, an odd one expected",
        ),
        (
            "- actor: shop_for_test:Takes\n  args: {odds: [{number: 1}, {number: 2}]}",
            "args.odds: [{'number': 1}, {'number': 2}] given: number: 2 given, an odd one expected",
        ),
        ("- actor: [x]", "supervisor.children[0].actor: a list given"),
        (
            "- actr: shop_for_test:Orders",
            "unknown kind 'actr', did you mean 'actor'?",
        ),
        ("- id: x", "no kind given, one of actor, supervisor, include"),
        ("- id: x\n  remove: true", "only an overlay removes a child; give it by -o after the file it changes"),
        ("- actor: shop_for_test:Orders\n  supervisor: x", "two kinds given, 'actor' and 'supervisor'"),
        ("- just text", "'just text' given, a mapping such as"),
        (
            "- actor: shop_for_test:Orders\n  replicas: 0",
            "replicas: '0' given, a whole number >= 1 and <= 10000 expected",
        ),
        ("- actor: shop_for_test:Orders\n  shutdown: 5", "or brutal or infinity expected"),
        ("- actor: shop_for_test:Orders\n  backoff: {initial: 1s}", "backoff.maximum: missing"),
        ("- actor: shop_for_test:Orders\n  backoff: {initial: 2s, maximum: 1s}", "at least initial"),
        ("- actor: shop_for_test:Orders\n  mailbox: {capacity: 0}", "mailbox.capacity: '0' given"),
        (
            "- actor: shop_for_test:Orders\n  mailbox: {overflow: no}",
            "tree.yaml:5:27: supervisor.children[0].mailbox.overflow: 'no' given, one of reject",
        ),
        ("- actor: shop_for_test:Orders\n  config: 5", "config: '5' given, a mapping expected"),
        (
            "- actor: shop_for_test:Orders\n  config: {items: 5}",
            "tree.yaml:5:16: supervisor.children[0].config.items: Orders declares no such property; it declares: nothing",
        ),
        ("- actor: shop_for_test:Orders\n  significant: true", "significant: True given with restart 'permanent'"),
        ("- actor: shop_for_test:Orders\n  id: a b", "id: 'a b' given"),
        ('- actor: shop_for_test:Orders\n  id: "a\\e[31m"', r"id: 'a\x1b[31m' given, a text without spaces"),
        (
            "- actor: shop_for_test:Orders\n  args: {strat: 1}",
            "tree.yaml:5:14: supervisor.children[0].args.strat: Orders takes no such argument, did you mean 'start'?",
        ),
        ("- actor: shop_for_test:Orders\n  args: {start: ten}", "args.start: 'ten' given, int expected"),
        ("- actor: shop_for_test:Orders\n  args: {every: 5}", "args.every: 5 given: '5' is not a duration"),
        ("- actor: shop_for_test:Needs", "args.point: missing: Needs needs this argument"),
        ("- actor: shop_for_test:Needs\n  args: {}", "tree.yaml:5:13: supervisor.children[0].args.point: missing"),
        (
            "- actor: shop_for_test:Needs\n  args: {point: {y: 1}}",
            "args.point: {'y': 1} given, the field `x` expected",
        ),
        (
            "- actor: shop_for_test:Needs\n  args: {point: {x: 1, z: 2}}",
            "tree.yaml:5:28: supervisor.children[0].args.point.z: unknown key; known: x",
        ),
        ("- supervisor: n\n  mailbox: {}", "supervisor.children[0].mailbox: unknown key"),
        ("- supervisor: n\n  args: {max_restarts: 5}", "supervisor.children[0].args: unknown key"),
        ("- gateway: {port: 0}\n  args: {port: 1}", "supervisor.children[0].args: unknown key"),
        (
            "- actor: shop_for_test:Orders\n  mailbox: {capcity: 5}",
            "tree.yaml:5:17: supervisor.children[0].mailbox.capcity: unknown key, did you mean 'capacity'?",
        ),
        (
            "- supervisor: n\n  children: [{actor: 'shop_for_test:Orders', restart: temporary, significant: true}]",
            "auto_shutdown is 'never'",
        ),
        ("- include: none.yaml", "there is no file"),
        ('- include: "a\\0b.yaml"', "there is no file"),
        ("- include: loop.yaml", "there is no file"),
        ("- include: plain.yaml", "plain.yaml:1:1: 'text' given, a list of children or `children:` expected"),
        ("- include: broken.yaml", "broken.yaml:2:1: not YAML"),
        ("- include: [x]", "include: a list given, the path of a file expected"),
        ("- include: tree.yaml\n  id: x", "unknown key"),
        ("- actor: shop_for_test:Orders\n  id: ${A", "a closing brace expected"),
        ("- actor: shop_for_test:Orders\n  significant: 5", "significant: '5' given, true or false expected"),
        ("- actor: shop_for_test:Orders\n  args: {every: [1]}", "a duration with its unit"),
        ("- actor: half_for_test:Orders", "cannot be imported (half_for_test.py, line 1): No module named 'not_there'"),
        ("- include: tree.yaml", "the file includes itself: "),
        ("- sale: 5", "supervisor.children[0].sale: '5' given, a mapping expected"),
        ("- lost: {id: a, start: 1}", "tree.yaml:4:7: supervisor.children[0].lost: there is no module 'nowhere'"),
        ("- sale: [1]", "supervisor.children[0].sale: a list given, a mapping expected"),
        ("- lost:", "tree.yaml:4:7: supervisor.children[0].lost: there is no module 'nowhere'"),
        ("- slae: {}", "unknown kind 'slae', did you mean 'sale'?"),
    ],
)
def test_a_faulty_child_is_refused_where_the_fault_is(folder: Path, text: str, problem: str) -> None:
    found = child_faults(folder, text)
    assert any(problem in one for one in found), found


def test_a_class_that_was_written_after_its_module_was_imported_is_told_as_such(folder: Path) -> None:
    missing = "supervisor.children[0].actor: module shop_for_test has no 'Later'"
    assert child_faults(folder, "- actor: shop_for_test:Later") == [f"tree.yaml:4:14: {missing}, did you mean 'Gate'?"]
    module = folder / "shop_for_test.py"
    module.write_text(f"{MODULE}\nclass Later(Orders): ...\n")
    os.utime(module, (2e9, 2e9))
    said = "; shop_for_test.py has changed since this process imported it, and is read again at its next start"
    assert child_faults(folder, "- actor: shop_for_test:Later") == [f"tree.yaml:4:14: {missing}{said}"]


def test_replicas_are_counted_among_the_ids(folder: Path) -> None:
    text = "- actor: shop_for_test:Orders\n  replicas: 2\n- actor: shop_for_test:Orders\n  id: orders-2"
    assert any("the id 'orders-2' is given twice" in one for one in child_faults(folder, text))


@pytest.mark.parametrize("word", ["on", "yes", "012", "1e3", "1:30", "2024-01-01", "0x1f", "null_", "'5'", "no"])
def test_a_text_stays_the_text_it_was_written_as(folder: Path, word: str) -> None:
    text = f"- actor: shop_for_test:Orders\n  id: {word}\n  args: {{channel: {word}}}"
    (spec,) = children(folder, text).children
    plain = word.strip("'")
    assert (spec.id, spec.args) == (plain, {"channel": plain})


def test_arguments_become_what_the_annotation_says(folder: Path) -> None:
    text = "- actor: shop_for_test:Needs\n  args: {point: {x: 3, zip: 01234}}"
    (spec,) = children(folder, text).children
    point = spec.args["point"]
    assert (type(point).__name__, point.x, point.zip) == ("Point", 3, "01234")
    text = "- actor: shop_for_test:Orders\n  args: {start: '${N}', ratio: 2, tags: null, on: '${ON:-true}'}"
    (spec,) = children(folder, text, {"N": "7"}).children
    assert spec.args == {"start": 7, "ratio": 2.0, "tags": None, "on": True}


def test_a_key_that_no_field_takes_is_told_of_however_deep_it_is(folder: Path) -> None:
    (folder / "shapes_for_test.py").write_text(
        "from typing import Any, NamedTuple\nimport msgspec\nfrom mbactor import Actor\n\n\n"
        "class Box(msgspec.Struct, tag='box', tag_field='kind', rename='camel'):\n    wide_side: int = 0\n\n\n"
        "class Disc(msgspec.Struct, tag='disc', tag_field='kind'):\n    size: int = 0\n\n\n"
        "class Pair(NamedTuple):\n    one: Box\n    other: int = 0\n\n\n"
        "class Draws(Actor):\n"
        "    def __init__(self, shapes: dict[str, list[Box | Disc]], pair: Pair, free: dict[str, Any]) -> None: ...\n"
    )
    text = """
    - actor: shapes_for_test:Draws
      args:
        shapes: {a: [{kind: box, wideSide: 3}, {kind: disc, size: 1}]}
        pair: [{kind: box}]
        free: {any: [{thing: 1}]}
    """
    assert children(folder, text).children[0].args["shapes"]["a"][0].wide_side == 3
    text = text.replace("wideSide", "wideSid").replace("{kind: box}", "{kind: box, x: 1}")
    assert child_faults(folder, text) == [
        "tree.yaml:6:34: supervisor.children[0].args.shapes.a[0].wideSid: unknown key, did you mean 'wideSide'?",
        "tree.yaml:7:28: supervisor.children[0].args.pair[0].x: unknown key; known: wideSide, kind",
    ]


def test_an_annotation_that_cannot_be_resolved_keeps_no_other_argument_from_its_check(folder: Path) -> None:
    (folder / "later_for_test.py").write_text(
        "from __future__ import annotations\nfrom mbactor import Actor\n\n\nclass Later(Actor):\n"
        "    def __init__(self, what: OnlyForTypeCheckers, size: int) -> None: ...\n"
    )
    (spec,) = children(folder, "- actor: later_for_test:Later\n  args: {what: x, size: '${N}'}", {"N": "7"}).children
    assert spec.args == {"what": "x", "size": 7}
    (told,) = child_faults(folder, "- actor: later_for_test:Later\n  args: {what: x, size: many}")
    assert "'many' given" in told


def test_interpolation_takes_the_type_of_the_field_and_brings_in_no_structure(folder: Path) -> None:
    text = """
        - actor: shop_for_test:Orders
          replicas: ${N:-2}
          shutdown: ${STOP:-infinity}
          args: {channel: "${KEY}", tags: ["$${KEY}"]}
    """
    spec = children(folder, text, {"KEY": "{a: 1}\nb: 2", "N": "3"})
    assert [one.id for one in spec.children] == ["orders-1", "orders-2", "orders-3"]
    assert spec.children[0].shutdown is None
    assert spec.children[0].args == {"channel": "{a: 1}\nb: 2", "tags": ["${KEY}"]}


def test_a_variable_without_value_and_default_is_an_error_with_its_position(folder: Path) -> None:
    text = "- actor: shop_for_test:Orders\n  id: ${A}\n  args: {channel: '${B:?say which}', start: '${C-1}'}"
    assert child_faults(folder, text) == [
        (
            "tree.yaml:5:11: supervisor.children[0].id: the environment variable A is not set, "
            "and there is no default (${A:-...})"
        ),
        "tree.yaml:6:23: supervisor.children[0].args.channel: the environment variable B is not set: say which",
        (
            "tree.yaml:6:49: supervisor.children[0].args.start: ${C-1} given, "
            "${VAR}, ${VAR:-default}, ${VAR:?message}, ${VAR:+alternative}, ${file:path} or ${replica} expected"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("a${X}b${Y:-2}", "a1b2"), ("$${X}", "${X}"), ("${E:-d}", "d"), ("${E}", ""), ("$X", "$X"), ("${X:?m}", "1")],
)
def test_interpolation(text: str, value: str) -> None:
    assert interpolate(text, Sources({"X": "1", "E": ""})) == value


def test_included_files_bring_their_children_in_with_positions_of_their_own(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "list.yaml").write_text("- include: two.yaml\n- actor: shop_for_test:Orders\n  id: c\n")
    (folder / "more" / "two.yaml").write_text("version: 1\nchildren:\n  - actor: shop_for_test:Orders\n    id: b\n")
    whole = "version: 1\nname: other\nsupervisor:\n  children:\n    - actor: shop_for_test:Orders\n      id: d\n"
    (folder / "whole.yaml").write_text(whole)
    text = "- actor: shop_for_test:Orders\n  id: a\n- include: more/list.yaml\n- include: whole.yaml"
    topology = read(folder, "version: 1\nsupervisor:\n  children:\n    " + text.replace("\n", "\n    "))
    assert [one.id for one in topology.supervisor.children] == ["a", "b", "c", "d"]
    assert [path.name for path in topology.included] == ["list.yaml", "two.yaml", "whole.yaml"]
    (folder / "more" / "two.yaml").write_text("children:\n  - actor: shop_for_test:Orders\n    id: a\n    x: 1\n")
    assert child_faults(folder, text) == [
        "more/two.yaml:3:9: children[0].id: the id 'a' is given twice in this supervisor (first at tree.yaml:5:11)",
        (
            "more/two.yaml:4:5: children[0].x: unknown key; known: actor, after, args, backoff, config, id, mailbox, "
            "process, replicas, restart, shutdown, significant, template"
        ),
    ]


def test_a_cycle_of_includes_is_spelled_out(folder: Path) -> None:
    (folder / "a.yaml").write_text("- include: b.yaml\n")
    (folder / "b.yaml").write_text("- include: a.yaml\n")
    (problem,) = child_faults(folder, "- include: a.yaml")
    assert problem == "b.yaml:1:12: [0].include: the file includes itself: tree.yaml -> a.yaml -> b.yaml -> a.yaml"


def test_a_short_kind_gives_its_arguments_and_its_keys_as_a_child(folder: Path) -> None:
    text = '- sale: {start: "${N:-3}", channel: x, restart: transient}\n  id: flows'
    (spec,) = children(folder, text).children
    assert (spec.id, spec.kind, spec.restart, spec.args) == (
        "flows",
        "actor",
        "transient",
        {"start": 3, "channel": "x"},
    )
    assert [one.id for one in children(folder, "- sale:").children] == ["orders"]
    text = "- sale: {strat: 2, id: x}\n  id: flows"
    assert child_faults(folder, text) == [
        "tree.yaml:4:14: supervisor.children[0].sale.strat: Orders takes no such argument, did you mean 'start'?",
        "tree.yaml:4:24: supervisor.children[0].sale.id: given in `sale` and beside it; once expected",
    ]


def test_all_that_is_wrong_in_a_backoff_is_told_at_once(folder: Path) -> None:
    found = child_faults(
        folder, "- {actor: 'shop_for_test:Orders', backoff: {initial: 2s, maximum: 1s, factor: 0, jitter: 2}}"
    )
    assert [one.partition("backoff.")[2].partition(":")[0] for one in found] == ["maximum", "factor", "jitter"]


def test_what_two_fields_say_of_each_other_is_told_beside_other_mistakes(folder: Path) -> None:
    found = child_faults(folder, "- actor: shop_for_test:Orders\n  significant: true\n  wrong: 1")
    assert [one.split(": ", 1)[1][:42] for one in found] == [
        "supervisor.children[0].significant: True g",
        "supervisor.children[0].wrong: unknown key;",
    ]
    found = child_faults(folder, "- actor: shop_for_test:Orders\n  significant: true\n  restart: permanent\n  wrong: 1")
    assert [one.split(": ", 1)[1][:40] for one in found] == [
        "supervisor.children[0].significant: True",
        "supervisor.children[0].wrong: unknown ke",
    ]
    found = child_faults(folder, "- actor: shop_for_test:Orders\n  significant: true\n  restart: transiant")
    assert len(found) == 1, "nobody knows which restart was meant"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- actor: shop_for_test:Orders\n  id: a b", "tree.yaml:5:11: supervisor.children[0].id: 'a b' given, a text"),
        (
            "- actor: shop_for_test:Orders\n  restart: permanent\n  significant: true",
            "tree.yaml:6:20: supervisor.children[0].significant: True given with restart 'permanent'",
        ),
        (
            "- actor: shop_for_test:Orders\n  restart: transient\n  significant: true",
            "tree.yaml:6:20: supervisor.children[0].significant: True given while auto_shutdown is 'never'",
        ),
        (
            "- actor: shop_for_test:Orders\n  backoff: {initial: 2s, maximum: 1s}",
            "tree.yaml:5:39: supervisor.children[0].backoff.maximum: 1s given, at least initial (2s)",
        ),
        (
            "- actor: shop_for_test:Orders\n  backoff: {initial: 1s, maximum: 2s, jitter: 2}",
            "tree.yaml:5:51: supervisor.children[0].backoff.jitter: 2.0 given, a number from 0 to 1",
        ),
        (
            "- supervisor: n\n  within: 0s",
            "tree.yaml:5:15: supervisor.children[0].within: 0.0 given, a duration above 0",
        ),
        (
            "- &a {actor: 'shop_for_test:Orders'}\n- <<: *a\n  id: b",
            "tree.yaml:5:7: supervisor.children[1].<<: YAML's merge key given; `template: name` is what shares parts",
        ),
        ("- actor: shop_for_test:Orders\n  shutdown: 1.5", "expected, did you mean '1.5s'?"),
        ("- actor: shop_for_test:Orders\n  shutdown: brutall", "expected, did you mean 'brutal'?"),
        ("- actor: shop_for_test:Gate\n  args: {pause: 5}", "args.pause: 5 given: '5' is not a duration"),
        ("- actor: shop_for_test:Needs\n  args: {point: {x: a}}", "args.point: {'x': 'a'} given, int expected at x"),
        ("- actor: shop_for_test:Orders\n  args: [1]", "args: a list given, a mapping expected"),
    ],
)
def test_what_a_specification_refuses_is_told_at_the_field(folder: Path, text: str, problem: str) -> None:
    found = child_faults(folder, text)
    assert any(problem in one for one in found), found


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("one: fats", "args.one: 'fats' given, one of fast, safe expected, did you mean 'fast'?"),
        ("maybe: c", "args.maybe: 'c' given, one of a, b expected"),
        ("modes: [fast, slow]", "args.modes: ['fast', 'slow'] given: 'slow' is none of the values that there are at [1]"),
        ("card: 5", "args.card: 5 given, mapping | null expected"),
        ("card: {}", "args.card: {} given, the field `number` expected"),
        ("card: {number: 1, owner: x}", "args.card: {'number': 1, 'owner': 'x'} given: there is no field `owner`"),
        ("cards: [{number: 1}, {}]", "args.cards: [{'number': 1}, {}] given, the field `number` expected at [1]"),
        ("cards: 1", "args.cards: 1 given, list expected"),
        ("paid: {type: cheque}", "args.paid: {'type': 'cheque'} given: 'cheque' is none of the values that there are at type"),
        ("day: soon", "args.day: 'soon' given, a date such as 2026-01-31 expected"),
        ("moment: soon", "args.moment: 'soon' given, a date and time such as 2026-01-31T12:00:00Z expected"),
        ("time: soon", "args.time: 'soon' given, a time of day such as 12:00:00 expected"),
        ("id: x", "args.id: 'x' given, a UUID expected"),
        ("price: x", "args.price: 'x' given, a decimal number expected"),
        ("raw: '!'", "args.raw: '!' given, a text in base64 expected"),
        ("pair: [1]", "args.pair: [1] given, list of length 2 expected"),
        ("pair: [1, 2, 3]", "args.pair: [1, 2, 3] given, list of length 2 expected"),
        ("pair: [1, x]", "args.pair: [1, 'x'] given, int expected at [1]"),
        ("counts: {a: 1}", "args.counts: {'a': 1} given, int expected as a key"),
        ("pauses: [5 s]", "args.pauses: ['5 s'] given, a duration such as PT5S (5 s) expected at [0]"),
        ("deep: [[1], [1, 2]]", "args.deep: [[1], [1, 2]] given, list of length <= 1 expected at [1]"),
    ],
)  # fmt: skip
def test_what_an_argument_is_to_be_is_told_in_words_of_a_file(folder: Path, args: str, problem: str) -> None:
    (told,) = child_faults(folder, f"- actor: shop_for_test:Typed\n  args: {{{args}}}")
    assert told.endswith(f"supervisor.children[0].{problem}")


@pytest.mark.parametrize("given", ["''", "${BROKER:-}", "local"])
def test_a_transport_that_is_left_empty_is_local(folder: Path, given: str) -> None:
    text = f"version: 1\ntransport: {given}\nsupervisor: {{children: [{{actor: 'shop_for_test:Orders'}}]}}\n"
    assert read(folder, text).transport == "local"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("{}", Mailbox()), ("{capacity: 5}", Mailbox(capacity=5)), ("{overflow: wait}", Mailbox(overflow="wait"))],
)
def test_what_is_not_said_of_a_mailbox_is_as_everywhere(folder: Path, given: str, expected: Mailbox) -> None:
    (spec,) = children(folder, f"- actor: shop_for_test:Orders\n  mailbox: {given}").children
    assert spec.mailbox == expected


def test_what_is_written_as_a_text_stays_one(folder: Path) -> None:
    text = "- actor: shop_for_test:Gate\n  args: {any_of: [5, '5', \"5\", !!str 5, true, 'true', null, !!str null]}"
    (spec,) = children(folder, text).children
    assert spec.args == {"any_of": [5, "5", "5", "5", True, "true", None, "null"]}


def test_a_timedelta_is_written_with_its_unit(folder: Path) -> None:
    text = "- actor: shop_for_test:Gate\n  args: {pause: 1m 30s, every: 5s}"
    (spec,) = children(folder, text).children
    assert spec.args == {"pause": dt.timedelta(seconds=90), "every": "5s"}


def test_supervisors_nested_without_measure_are_refused(folder: Path) -> None:
    text = "{supervisor: s, children: [" * 150 + "]}" * 150
    assert any("nested too deeply" in one for one in child_faults(folder, f"- {text}"))


def test_a_child_with_a_fault_brings_no_others(folder: Path) -> None:
    """What follows from a fault is not told: that others wait for a child that is faulty, or what it would need."""
    text = """
        - {actor: 'shop_for_test:Missing', id: a}
        - {actor: 'shop_for_test:Orders', id: b, after: [a]}
        - {actor: 'nowhere:Orders', after: [b]}
        - {actor: 'shop_for_test:Orders', id: c, after: [orders]}
    """
    assert len(child_faults(folder, text)) == 2
    # Where an id could not be read, it may be the one that another waits for.
    (problem,) = child_faults(
        folder, "- {actor: 'shop_for_test:Orders', id: [x]}\n- {actor: 'shop_for_test:Orders', id: b, after: [x]}"
    )
    assert "supervisor.children[0].id: a list given" in problem
