"""The configuration of children in a topology file: checked against what their classes declare, and applied live."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from mbactor import Actor, ActorSystem, config, endpoint
from mbactor.cli.main import main
from mbactor.supervisor.spec import child
from mbactor.supervisor.topology import TopologyError, as_json, as_yaml, load, schema
from tests.supervisor.topology_parts import child_faults, children, read

KEY = "hunter2"
SHOP = """
from __future__ import annotations
import datetime as dt
from typing import Literal
from mbactor import Actor, config, endpoint

class Till(Actor):
    host = "till.example"
    max_items: int = config(default=10, validation="int [1,100]", description="in one order")
    api_key: str = config(secret=True, validation="str ^[A-Za-z0-9-]+$")
    pause: dt.timedelta = config(default=dt.timedelta(seconds=5), validation="dur [1s,15m]")
    mode: Literal["fast", "safe"] = config(default="safe")
    code: str = config(default="000", validation="str ^[0-9]{3}$")
    note: str | None = config()
    limits: dict[str, int] = config(default={})
    changes: list[str] = []

    @endpoint
    async def get(self) -> tuple[int, str, str]:
        return self.max_items, str(self.api_key), self.code

    async def on_config_changed(self, changed: frozenset[str]) -> None:
        self.changes.append(",".join(sorted(changed)))
"""


@pytest.fixture
def shop(folder: Path) -> Iterator[Path]:
    (folder / "till_for_test.py").write_text(SHOP)
    (folder / "key").write_text(f"{KEY}\n")
    yield folder
    sys.modules.pop("till_for_test", None)


def till(config: str, more: str = "") -> str:
    return f"- actor: till_for_test:Till\n{more}  config: {config}"


# --- values -------------------------------------------------------------------------------------------------------


def test_values_are_what_the_class_declares(shop: Path) -> None:
    given = (
        "{max_items: '${MOST:-20}', api_key: '${file:key}', pause: 90s, mode: fast, code: 012, note: ~, limits: {a: 1}}"
    )
    (spec,) = children(shop, till(given)).children
    assert spec.config == {
        "max_items": 20, "api_key": KEY, "pause": dt.timedelta(seconds=90), "mode": "fast", "code": "012", "note": None,
        "limits": {"a": 1},
    }  # fmt: skip
    assert KEY not in repr(spec)


def test_replicas_share_it_and_may_differ_by_their_number(shop: Path) -> None:
    alike = children(shop, till("{api_key: abc}", "  replicas: 2\n")).children
    assert [one.config for one in alike] == [{"api_key": "abc"}] * 2
    each = children(shop, till("{api_key: 'k-${replica}'}", "  replicas: 2\n")).children
    assert [one.config for one in each] == [{"api_key": "k-1"}, {"api_key": "k-2"}]


def test_templates_and_overlays_change_single_properties(shop: Path) -> None:
    base = """
        version: 1
        templates:
          keyed: {config: {api_key: abc, mode: fast}}
        supervisor:
          children:
            - actor: till_for_test:Till
              template: keyed
              config: {max_items: 5}
    """
    over = "supervisor: {children: [{id: till, config: {max_items: 6, code: '123'}}]}"
    (spec,) = read(shop, base, {}, [over]).supervisor.children
    assert spec.config == {"api_key": "abc", "mode": "fast", "max_items": 6, "code": "123"}


FAULTS: list[tuple[str, list[str]]] = [
    (
        "{max_itms: 5, api_key: a b, pause: 90, mode: fsat, code: [1], note: {}, limits: {a: x}}",
        [
            (
                "tree.yaml:5:16: supervisor.children[0].config.max_itms: Till declares no such property, did you mean"
                " 'max_items'?"
            ),
            (
                "tree.yaml:5:38: supervisor.children[0].config.api_key: <secret> given, a text that matches"
                " ^[A-Za-z0-9-]+$ expected"
            ),
            (
                "tree.yaml:5:50: supervisor.children[0].config.pause: '90' given, a duration >= 1s and <= 15m expected, did"
                " you mean '90s'?"
            ),
            (
                "tree.yaml:5:60: supervisor.children[0].config.mode: 'fsat' given, one of fast, safe expected, did you mean"
                " 'fast'?"
            ),
            "tree.yaml:5:72: supervisor.children[0].config.code: a list given, a text that matches ^[0-9]{3}$ expected",
            "tree.yaml:5:83: supervisor.children[0].config.note: a mapping given, a text or null expected",
            "tree.yaml:5:95: supervisor.children[0].config.limits: {'a': 'x'} given, int expected at [...]",
        ],
    ),
    (
        "{max_items: ~, api_key: '${file:key}', mode: '${file:key}'}",
        [
            (
                "tree.yaml:5:27: supervisor.children[0].config.max_items: nothing given, a whole number >= 1 and <= 100"
                " expected"
            ),
            "tree.yaml:5:60: supervisor.children[0].config.mode: <secret> given, one of fast, safe expected",
        ],
    ),
    ("{}", ["tree.yaml:5:15: supervisor.children[0].config.api_key: missing: Till needs this property"]),
]


@pytest.mark.parametrize(("given", "expected"), FAULTS)
def test_every_fault_is_told_with_its_place(shop: Path, given: str, expected: list[str]) -> None:
    assert child_faults(shop, till(given)) == expected


def test_a_property_that_is_missing_is_told_where_there_is_no_config(shop: Path) -> None:
    assert child_faults(shop, "- actor: till_for_test:Till") == [
        "tree.yaml:4:7: supervisor.children[0].config.api_key: missing: Till needs this property"
    ]
    assert child_faults(shop, "- actor: till_for_test:Till\n  config: 5") == [
        "tree.yaml:5:15: supervisor.children[0].config: '5' given, a mapping expected"
    ]


def test_a_class_whose_declaration_is_wrong_is_a_fault_at_its_name(shop: Path) -> None:
    (shop / "till_for_test.py").write_text(SHOP.replace("default=10", "default=0"))
    assert child_faults(shop, till("{api_key: a}")) == [
        (
            "tree.yaml:4:14: supervisor.children[0].actor: Till.max_items: default: 0 given, a whole number >= 1 and <= 100"
            " expected"
        )
    ]


# --- what people are shown ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("'${file:key}'", "${file:{folder}/key}"),
        ("'${KEY}'", "${KEY:?a secret, which is not printed}"),
        ("'${KEY:-hunter2}'", "${KEY:?a secret, which is not printed}"),
        ("hunter2", "${API_KEY:?a secret, which is not printed}"),
        ("'${NAME:-ada}-${KEY}'", "${API_KEY:?a secret, which is not printed}"),
        ("'${NAME:-ada}-${file:key}'", "${API_KEY:?a secret, which is not printed}"),
        ("'k-${file:key}'", "k-${file:{folder}/key}"),
    ],
)
def test_a_resolved_file_has_references_in_the_place_of_secrets(shop: Path, given: str, shown: str) -> None:
    text = f"""
        version: 1
        supervisor:
          children:
            - supervisor: inner
              children:
                - actor: "${{CLASS:-till_for_test:Till}}"
                  config: {{api_key: {given}, max_items: '${{MOST:-7}}'}}
    """
    topology = read(shop, text, {"KEY": KEY})
    for written in (as_yaml(topology.document), as_json(topology.document)):
        assert KEY not in written
        assert shown.replace("{folder}", str(shop)) in written
    (shop / "again.yaml").write_text(as_yaml(topology.document))
    again = load(shop / "again.yaml", {"KEY": KEY, "API_KEY": str(_config(topology)["api_key"])})
    assert again.supervisor == topology.supervisor
    assert _config(again)["max_items"] == 7


def _config(topology: Any) -> dict[str, Any]:
    (inner,) = topology.supervisor.children
    config: dict[str, Any] = inner.args["children"][0].config
    return config


def test_the_schema_knows_what_the_classes_of_a_file_declare(shop: Path) -> None:
    (shop / "tree.yaml").write_text(
        "version: 1\nsupervisor:\n  children:\n    - {actor: 'till_for_test:Till', config: {api_key: a}}\n"
    )
    printed = CliRunner().invoke(main, ["schema", str(shop / "tree.yaml")])
    assert printed.exit_code == 0, printed.output
    known = json.loads(printed.output)
    assert known == schema(classes=load(shop / "tree.yaml", {}).classes)
    jsonschema.Draft202012Validator.check_schema(known)

    def valid(config: str) -> bool:
        text = f"version: 1\nsupervisor: {{children: [{{actor: 'till_for_test:Till', config: {config}}}]}}"
        return bool(jsonschema.Draft202012Validator(known).is_valid(yaml.safe_load(text)))

    assert valid("{max_items: 5, api_key: abc, pause: 5s, mode: fast, note: null, limits: {a: 1}}")
    assert all(valid(given) for given in ("{max_items: '${MOST}'}", "{max_items: 1}", "{max_items: 100}"))
    for wrong in (
        "{max_itms: 5}",
        "{max_items: 0}",
        "{max_items: 101}",
        "{max_items: 5.5}",
        "{pause: 5}",
        "{mode: slow}",
        "{note: 5}",
    ):
        assert not valid(wrong), wrong
    (declared,) = known["$defs"]["child"]["allOf"]
    properties = declared["then"]["properties"]["config"]["properties"]
    assert properties["max_items"]["default"] == 10
    assert properties["max_items"]["description"] == "in one order"
    assert properties["pause"]["default"] == "5s"
    assert properties["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_the_default_of_a_secret_is_neither_in_the_schema_nor_in_what_is_rendered(shop: Path) -> None:
    (shop / "safe_for_test.py").write_text(
        "from mbactor import Actor, config\n\nclass Safe(Actor):\n    pin: str = config(secret=True, default='4711')\n"
        "    most: int = config(default=1, validation='int [,9)')\n"
    )
    (shop / "tree.yaml").write_text("version: 1\nsupervisor: {children: [{actor: 'safe_for_test:Safe', config: {}}]}\n")
    try:
        loaded = load(shop / "tree.yaml", {})
        assert "pin" in str(schema(classes=loaded.classes))
        jsonschema.Draft202012Validator.check_schema(schema(classes=loaded.classes))
        assert "4711" not in str(schema(classes=loaded.classes)) + as_yaml(loaded.document)
    finally:
        del sys.modules["safe_for_test"]


# --- what a change does ---------------------------------------------------------------------------------------------


def tree(shop: Path, given: str) -> Any:
    return read(
        shop,
        f"version: 1\nname: shop\nsupervisor:\n  children:\n    - {till(given)[2:]}".replace(
            "\n  config", "\n      config"
        ),
    )


@pytest.mark.usefixtures("mbactor_loop")
async def test_a_changed_config_is_applied_in_place_and_a_faulty_file_changes_nothing(shop: Path) -> None:
    first = tree(shop, "{api_key: '${file:key}', max_items: 5}")
    async with ActorSystem("shop", tree=first.supervisor) as system:
        (row,) = system.supervisor("shop").which_children()
        cls, ref = first.supervisor.children[0].target, row.ref
        cls.changes.clear()
        running = ref.cell.current
        (shop / "key").write_text("changed\n")
        plan = await system.apply(tree(shop, "{api_key: '${file:key}', max_items: 6, code: '007'}"))
        (step,) = plan.steps
        assert (step.act, [str(change) for change in step.changes]) == (
            "change",
            ["config.max_items 5 -> 6", "config.api_key *** -> ***", "config.code unset -> '007'"],
        )
        assert await ref.ask(cls.get) == (6, "changed", "007")
        assert cls.changes == ["api_key,code,max_items"]
        with pytest.raises(TopologyError, match="max_items"):
            await system.apply(tree(shop, "{api_key: x, max_items: 0}"))
        assert await ref.ask(cls.get) == (6, "changed", "007")
        await system.apply(tree(shop, "{api_key: x}"))
        assert await ref.ask(cls.get) == (10, "x", "000")
        assert ref.cell.current is running
        assert not (await system.apply(tree(shop, "{api_key: x}"))).steps


class Holder(Actor):
    """Runs in a process of its own."""

    host = "holder.example"
    key: str = config(secret=True)
    size: int = config(default=1)

    @endpoint
    async def get(self) -> tuple[str, int, bool]:
        """The secret, and whether it can be seen by whoever looks at the process from outside."""
        places = [Path("/proc/self/cmdline"), Path("/proc/self/environ")]
        seen = any(str(self.key).encode() in place.read_bytes() for place in places if place.exists())
        return str(self.key), self.size, seen


@pytest.mark.anyio
async def test_a_child_in_a_process_of_its_own_has_its_config_over_the_private_socket() -> None:
    spec = child(Holder, config={"key": KEY}, process=True)
    async with ActorSystem() as system:
        ref = await system.spawn(spec)
        assert await ref.ask(Holder.get) == (KEY, 1, False)
