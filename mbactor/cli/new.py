"""`mbactor new`: a folder with a service to begin with, its tests and its tree."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from string import Template

import click

from mbactor.errors import InvalidSpec, MbactorError

SERVICE = '''"""The service `$name`: an actor, and a workflow that goes on after any crash."""

from __future__ import annotations

from mbactor import Actor, endpoint
from mbactor.foreman import END, FlowOutcome, Flows, Graph, task, workflow


class $cls(Actor):
    """Asked at https://$host."""

    host = "$host"

    def __init__(self, greeting: str = "Hello") -> None:
        self.greeting = greeting
        self.greeted = 0  # endpoints run one at a time, so the state needs no lock

    @endpoint
    async def greet(self, name: str) -> str:
        self.greeted += 1
        return f"{self.greeting} {name}, you are number {self.greeted}"

    @endpoint
    async def order(self, item: str, count: int = 1) -> FlowOutcome:
        """Start an order, and return how it ended."""
        return await Flows(self).run($cls.ordering, {"item": item, "count": count})

    # A task's parameters are fields of the flow's state, and so are its results.

    @task
    async def reserve(self, count: int) -> dict[str, bool]:
        return {"reserved": count <= 10}

    @task
    async def confirm(self, item: str, count: int, reserved: bool) -> dict[str, str]:
        told = f"{count} of {item} are yours" if reserved else f"{item} is sold out"
        return {"told": told}

    @workflow
    def ordering(self) -> Graph:
        graph = Graph("Ordering")
        graph.add_transition_chain($cls.reserve, $cls.confirm, END)
        return graph
'''

TESTS = '''"""What `$name` promises, in virtual time, with no broker and no database."""

from __future__ import annotations

import pytest
from mbactor import ActorSystem
from mbactor.foreman import Flows, Foreman

from $name import $cls


async def test_it_counts_whom_it_has_greeted(mbactor: ActorSystem) -> None:
    $name = await mbactor.spawn($cls)
    assert await $name.ask($cls.greet, "Ada") == "Hello Ada, you are number 1"
    assert await $name.ask($cls.greet, "Bob") == "Hello Bob, you are number 2"


@pytest.mark.parametrize(
    ("count", "told"), [(2, "2 of tea are yours"), (11, "tea is sold out")]
)
async def test_an_order_is_confirmed_where_there_is_enough(
    mbactor: ActorSystem, count: int, told: str
) -> None:
    await mbactor.spawn(Foreman)
    await mbactor.spawn($cls)
    wanted = {"item": "tea", "count": count}
    outcome = await Flows(mbactor).run($cls.ordering, wanted)
    assert (outcome.status, outcome.state["told"]) == ("completed", told)
'''

TREE = """# mbactor run topology.yaml
version: 1
name: $name
transport: "$${BROKER:-local}" # or embedded, or nats://host:port
supervisor:
  strategy: rest_for_one # what stands below uses what stands above
  max_restarts: 3
  within: 5s
  children:
    - foreman: { database: "$${FLOWS_DB:-sqlite:///flows.db}" }
    - actor: $name:$cls
      args: { greeting: Hello }
    - gateway: { port: "$${PORT:-8080}" }
"""

NEXT = """
cd $folder
pytest
mbactor run topology.yaml

From another shell:

mbactor call $host/greet '{"name": "Ada"}'
curl -s localhost:8080/$host/order -d '{"item": "tea", "count": 2}'
"""


def begin(folder: Path) -> None:
    """Make the folder, whole or not at all, and say what is in it. InvalidSpec for a name that no module can have."""
    if folder.exists():
        raise MbactorError(f"{folder} is there already; nothing was written", status=409)
    name = _checked(folder.name)
    values = {
        "name": name,
        "cls": _class_of(name),
        "host": f"{name.replace('_', '-').rstrip('-')}.example",
        "folder": shlex.quote(str(folder)),
    }
    files = {
        f"{name}.py": (SERVICE, "an actor and a workflow"),
        f"test_{name}.py": (TESTS, "their tests"),
        "topology.yaml": (TREE, "the tree that runs them"),
    }
    _write(folder, {file: Template(text).substitute(values) for file, (text, _) in files.items()})
    width = max(map(len, files)) + 2
    for file, (_, what) in files.items():
        click.echo(f"{folder / file!s:<{width + len(str(folder)) + 1}}{click.style(what, dim=True)}")
    click.echo(Template(NEXT).substitute(values).rstrip("\n"))


def _checked(name: str) -> str:
    if not re.fullmatch("[a-z](_?[a-z0-9])*", name) or keyword.iskeyword(name):
        raise InvalidSpec(f"{name!r} given, the name of a module expected: small letters, digits and _, as in 'shop'")
    found = find_spec(name)
    if found is not None and found.origin is not None:  # a mere folder has none
        raise InvalidSpec(f"{name!r} given, but there is a module of that name, which it would hide: choose another")
    if re.search(rf"import .*\b{_class_of(name)}\b", SERVICE + TESTS):
        raise InvalidSpec(
            f"{name!r} given, but its class would hide the {_class_of(name)} of mbactor that it uses: choose another"
        )
    return name


def _class_of(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for file, text in files.items():
                (made / file).write_text(text, encoding="utf-8")
            made.chmod(0o777 & ~_umask())
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise MbactorError(f"{folder} cannot be written: {error.strerror or error}") from None


def _umask() -> int:
    os.umask(mask := os.umask(0o077))  # it can only be read by setting it
    return mask
