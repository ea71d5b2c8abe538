"""A secret reaches the constructor and no eye."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology import TopologyError, as_json, as_yaml, load
from tests.supervisor.topology_parts import child_faults, children, read

KEY = "hunter2"
USES = """
    - actor: shop_for_test:Gate
      args:
        key: "x-${file:secrets/key}"
        any_of: {deep: ["${file:secrets/key}"]}
        login: {user: me, password: "${file:secrets/key}"}
        keys: ["${file:secrets/key}", open]
    - sale: {channel: "${file:secrets/key}"}
    - supervisor: inner
      children:
        - actor: shop_for_test:Gate
          id: again
          args: {key: "${file:secrets/key}"}
"""


@pytest.fixture
def secret(folder: Path) -> Path:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "key").write_text(f"{KEY}\n")
    return folder


def test_the_constructor_is_given_the_secret_and_the_specification_does_not_show_it(secret: Path) -> None:
    spec = children(secret, USES)
    gate, sale, inner = spec.children
    assert gate.args["key"] == f"x-{KEY}"
    assert gate.args["any_of"] == {"deep": [KEY]}
    assert gate.args["login"].password == KEY
    assert gate.args["keys"] == [KEY, "open"]
    assert sale.args == {"channel": KEY}
    assert Supervisor(**inner.args).spec().children[0].args == {"key": KEY}
    assert KEY not in repr(spec)
    assert "open" in repr(spec)


def test_a_resolved_file_keeps_references_to_secrets(secret: Path) -> None:
    topology = read(secret, f"version: 1\nsupervisor:\n  children:{USES}")
    assert KEY not in repr(topology)
    for text in (as_yaml(topology.document), as_json(topology.document)):
        assert KEY not in text
        assert f"x-${{file:{secret}/secrets/key}}" in text


def test_an_included_file_names_secrets_relative_to_itself(secret: Path) -> None:
    (secret / "secrets" / "gate.yaml").write_text("- actor: shop_for_test:Gate\n  args: {key: '${file:key}'}\n")
    (spec,) = children(secret, "- include: secrets/gate.yaml").children
    assert spec.args == {"key": KEY}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("pin: '${file:secrets/key}'", "args.pin: <secret> given, int expected; a secret can only be a text (`str`)"),
        ("mode: '${file:secrets/key}'", "args.mode: <secret> given"),
        ("raw: '${file:secrets/base64}'", "args.raw: <secret> given, bytes expected"),
        ("every: '${file:secrets/key}'", "args.every: <secret> given"),
        ("login: {user: 5x, password: {x: '${file:secrets/key}'}}", "given"),
        ("login: '${file:secrets/key}'", "args.login: <secret> given"),
        ("key: '${file:/dev/zero}'", "'/dev/zero' cannot be read: it has more than 1 MB"),
        ("key: '${file:secrets/none}'", "none' cannot be read: No such file or directory"),
        ("kye: '${file:secrets/key}'", "args.kye: Gate takes no such argument, did you mean 'key'?"),
    ],
)
def test_no_error_shows_a_secret(secret: Path, args: str, problem: str) -> None:
    (secret / "secrets" / "base64").write_text("aHVudGVyMg==")
    found = child_faults(secret, f"- actor: shop_for_test:Gate\n  args: {{{args}}}")
    assert any(problem in one for one in found), found
    assert KEY not in "".join(found)
    assert "aHVudGVyMg" not in "".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "- actor: shop_for_test:Gate\n  id: '${file:secrets/key}'",
        "- actor: '${file:secrets/key}'",
        "- actor: shop_for_test:Gate\n  shutdown: '${file:secrets/key}'",
        "- supervisor: '${file:secrets/key}'",
        "- include: '${file:secrets/key}'",
        "- actor: shop_for_test:Gate\n  template: '${file:secrets/key}'",
        "- actor: shop_for_test:Gate\n  after: ['${file:secrets/key}']",
    ],
)
def test_what_is_shown_to_people_cannot_be_secret(secret: Path, text: str) -> None:
    found = child_faults(secret, text)
    assert any("a secret given, and this is shown to people" in one for one in found)
    assert KEY not in "".join(found)


def test_an_error_has_no_secret_in_its_fields(secret: Path) -> None:
    (secret / "tree.yaml").write_text(f"version: 1\nnmae: x\nsupervisor:\n  children:{USES}")
    with pytest.raises(TopologyError) as caught:
        load(secret / "tree.yaml", {})
    assert KEY not in f"{caught.value} {caught.value.fields}"
