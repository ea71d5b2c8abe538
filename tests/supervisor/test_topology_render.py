"""A resolved file is loaded again as the same specifications, and the schema knows every word of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mbactor.supervisor.topology import TopologyError, as_json, as_yaml, load, schema
from mbactor.supervisor.topology.kinds import KEYS
from tests.process import ROOT
from tests.supervisor.topology_parts import MODULE, read

EVERYTHING = """\
version: 1
name: all of it
transport: local
templates:
  worker:
    actor: shop_for_test:Orders
    restart: transient
    backoff: {initial: 100ms, maximum: 10s, factor: 3, jitter: 0.5}
    mailbox: {capacity: 10, overflow: wait}
    args: {start: 1, channel: "on", tags: [a, "1", "", 'x: y # "z" \\n']}
supervisor:
  strategy: rest_for_one
  max_restarts: ${BUDGET:-5}
  within: 10m
  auto_shutdown: any_significant
  children:
    - template: worker
      id: pool
      replicas: 2
      shutdown: brutal
      args: {channel: "n${replica} of ${HOME:+home}", ratio: 0.5, every: 1m 30s}
    - template: worker
      id: last
      significant: true
      after: [pool, gate]
      config: {}
    - actor: shop_for_test:Gate
      process: true
      args: {key: "a-${file:key}", any_of: {"yes": no, n: [1, 1.5, true, null, "null", "true", 1e3, 012]}}
    - supervisor: team
      shutdown: infinity
      replicas: ${TEAMS:-2}
      children:
        - sale: {id: flows, start: 1, shutdown: 1s}
        - sale:
        - include: more.yaml
    - supervisor: parts
      partitions: 2
      children: [{sale: }]
    - supervisor: shop_for_test:Tree
"""
MORE = "children:\n  - actor: shop_for_test:Orders\n    id: more\n"
OVERLAY = """\
templates: {extra: {template: worker, args: {start: "${X:-7}"}}}
supervisor:
  children:
    - {id: pool, replicas: 3}
    - {supervisor: team, children: [{id: more, remove: true}]}
    - {template: extra, id: added}
"""


@pytest.fixture
def whole(folder: Path) -> Path:
    (folder / "key").write_text("hunter2\n")
    (folder / "more.yaml").write_text(MORE)
    return folder


@pytest.mark.parametrize("overlays", [[], [OVERLAY]])
@pytest.mark.parametrize("write", [as_yaml, as_json])
def test_a_resolved_file_gives_the_same_specifications_anywhere(whole: Path, overlays: list[str], write: Any) -> None:
    before = read(whole, EVERYTHING, {"HOME": "h", "BUDGET": "7"}, overlays)
    elsewhere = whole / "elsewhere" / "other.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(write(before.document))
    after = load(elsewhere, {})
    assert after.supervisor == before.supervisor
    assert as_json(after.document) == as_json(before.document)
    assert (after.name, after.transport) == (before.name, before.transport)


def test_a_resolved_file_says_where_each_value_was_written(whole: Path) -> None:
    lines = as_yaml(read(whole, EVERYTHING, {}, [OVERLAY]).document).replace(f"{whole}/", "").splitlines()
    for line in (
        "name: all of it  # tree.yaml:2",
        "  max_restarts: 5  # tree.yaml:13",
        "      replicas: 3  # over1.yaml:4",
        "      shutdown: brutal  # tree.yaml:20",
        "      restart: transient  # tree.yaml:7",
        "    - actor: shop_for_test:Gate  # tree.yaml:27",
        "      id: gate  # default",
        '        start: "7"  # over1.yaml:1',
        '        key: "a-${file:key}"  # tree.yaml:29',
    ):
        assert line.replace("all of it", '"all of it"') in lines


def test_a_file_without_a_word_too_many_has_its_defaults_written_out(folder: Path) -> None:
    text = "version: 1\nsupervisor:\n  children:\n    - actor: shop_for_test:Orders\n    - supervisor: x\n"
    assert (
        as_yaml(read(folder, text).document).replace(f"{folder}/", "")
        == """\
version: 1  # tree.yaml:1
name: tree  # default
transport: local  # default
supervisor:
  strategy: one_for_one  # default
  max_restarts: 3  # default
  within: 5s  # default
  auto_shutdown: never  # default
  children:
    - actor: shop_for_test:Orders  # tree.yaml:4
      id: orders  # default
      restart: permanent  # default
      shutdown: 5s  # default
    - supervisor: x  # tree.yaml:5
      restart: permanent  # default
      shutdown: infinity  # default
      strategy: one_for_one  # default
      max_restarts: 3  # default
      within: 5s  # default
      auto_shutdown: never  # default
"""
    )


# --- any file ----------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["on", "null", "~", "", "1", "1.5", "1e3", "${", "$${X}", "${X}", "${replica}", "- a", "a: b", "#", "a #b", "'"]
)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
IDS = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)
ACTORS = st.fixed_dictionaries(
    {"actor": st.just("shop_for_test:Gate"), "id": IDS, "args": st.fixed_dictionaries({"any_of": VALUES})},
    optional={
        "replicas": st.sampled_from([1, 2, "${TWO}"]),
        "restart": st.sampled_from(["permanent", "transient", "${KIND:-temporary}"]),
        "shutdown": st.sampled_from(["5s", "1m30s", "brutal", "infinity"]),
        "backoff": st.sampled_from(
            [{"initial": "1s", "maximum": "2s"}, {"initial": "1s", "maximum": "2s", "factor": 3}]
        ),
        "mailbox": st.sampled_from([{}, {"capacity": 5}, {"overflow": "wait"}]),
        "process": st.booleans(),
        "template": st.sampled_from(["t", "u"]),
    },
)
TREES = st.fixed_dictionaries(
    {"children": st.lists(ACTORS, max_size=3)},
    optional={"strategy": st.sampled_from(["one_for_all", "rest_for_one"]), "max_restarts": st.integers(0, 9)},
)
NESTED = st.builds(lambda id, tree: {"supervisor": id, **tree}, IDS, TREES)
FILES = st.builds(
    lambda tree, nested: {
        "version": 1,
        "templates": {"t": {"restart": "transient"}, "u": {"template": "t", "args": {"key": "${KEY}"}}},
        "supervisor": {**tree, "children": [*tree["children"], *nested]},
    },
    TREES,
    st.lists(NESTED, max_size=2),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("any")
    (folder / "shop_for_test.py").write_text(MODULE)
    before = list(sys.path)
    sys.modules.pop("shop_for_test", None)
    yield folder
    sys.path[:] = before
    sys.modules.pop("shop_for_test", None)


def test_what_was_filled_in_stays_a_text_also_under_the_name_of_a_number(folder: Path) -> None:
    text = "version: 1\nsupervisor: {children: [{actor: 'shop_for_test:Gate', args: {any_of: {replicas: '${TWO}'}}}]}\n"
    (folder / "tree.yaml").write_text(text)
    (folder / "again.yaml").write_text(as_yaml(load(folder / "tree.yaml", {"TWO": "2"}).document))
    (again,) = load(folder / "again.yaml", {}).supervisor.children
    assert again.args == {"any_of": {"replicas": "2"}}


@given(FILES)
def test_any_right_file_is_loaded_again_as_it_was(place: Path, file: dict[str, Any]) -> None:
    environ = {"X": "an x: ${X} $", "TWO": "2", "KEY": "k\n- v"}
    (place / "any.yaml").write_text(yaml.safe_dump(file, allow_unicode=True))
    try:
        before = load(place / "any.yaml", environ)
    except TopologyError:
        return
    (place / "again.yaml").write_text(as_yaml(before.document))
    assert load(place / "again.yaml", {}).supervisor == before.supervisor


# --- the schema ----------------------------------------------------------------------------------------------------


def valid(document: Any, **options: Any) -> None:
    jsonschema.validate(document, schema(**options), jsonschema.Draft202012Validator)


def test_the_schema_takes_everything(whole: Path) -> None:
    sys.path.insert(0, str(whole))
    jsonschema.Draft202012Validator.check_schema(schema())
    valid(yaml.safe_load(EVERYTHING))
    valid(yaml.safe_load(OVERLAY), overlay=True)
    valid(json.loads(as_json(read(whole, EVERYTHING, {}, [OVERLAY]).document)))
    used = {key for line in EVERYTHING.splitlines() for key in KEYS if f"{key}:" in line}
    assert used == KEYS, "a file of everything has every key"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_takes_the_examples(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    valid(document, overlay="version" not in document)


@pytest.mark.parametrize(
    "child",
    [
        {"actor": "a:B", "restrat": "transient"},
        {"actor": "a"},
        {"actor": "a:B", "shutdown": 5},
        {"actor": "a:B", "shutdown": "five"},
        {"actor": "a:B", "backoff": {"initial": "1s", "most": "2s"}},
        {"actor": "a:B", "after": "x"},
        {"actor": "a:B", "process": "yes"},
        {"actor": "a:B", "remove": True},
        {"supervisor": "x", "mailbox": {}},
        {"gateway": {"port": 1}, "mailbox": {}},
        {"id": "x"},
        {"include": "x.yaml", "id": "x"},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(child: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        valid({"version": 1, "supervisor": {"children": [child]}})


def test_the_schema_of_an_overlay_takes_parts_and_refuses_other_words() -> None:
    valid({"supervisor": {"children": [{"id": "x", "shutdown": "1s"}, {"id": "y", "remove": True}]}}, overlay=True)
    with pytest.raises(jsonschema.ValidationError):
        valid({"supervisor": {"children": [{"id": "x", "shutdwon": "1s"}]}}, overlay=True)
