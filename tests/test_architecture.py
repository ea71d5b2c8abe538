"""The arrows between packages: who may import whom, and what the front door may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mbactor.observe import EVENTS
from mbactor.seams import SEAMS

ROOT = Path(__file__).parent.parent / "mbactor"
LEAVES = {
    "errors", "observe", "observers", "said", "telemetry", "clock", "seams", "expressions", "durations", "offload",
    "threads", "processes", "process_worker", "tracebacks", "secret", "validation", "patterns", "heap",
}  # fmt: skip
LAYERS = ["leaves", "mailbox", "transport", "kernel", "supervisor", "foreman", "services", "testing", "cli"]
MAY_IMPORT = {
    "leaves": {"leaves"},
    "mailbox": {"leaves"},
    "transport": {"leaves"},
    "kernel": {"leaves", "mailbox", "transport"},
    "supervisor": {"leaves", "mailbox", "transport", "kernel"},
    "foreman": {"leaves", "mailbox", "transport", "kernel", "supervisor"},
    "services": {"leaves", "mailbox", "transport", "kernel", "supervisor", "foreman"},
    "testing": {*LAYERS} - {"cli", "testing"},
    "cli": {*LAYERS} - {"testing"},
}
OF_THE_TREE = {"features", "worker", "shard", "api", "client", "foreman"}
"""The modules of `foreman` that know actors; all others run over any host."""
DRIVERS = {
    "nats": {"transport/nats_client.py"},
    "aiosqlite": {"foreman/store/sqlite.py"},
    "asyncpg": {"foreman/store/postgres.py"},
    "asyncmy": {"foreman/store/mysql.py"},
    "starlette": {"services/gateway.py"},
    "uvicorn": {"services/gateway.py"},
    "opentelemetry": {"telemetry.py"},
    "re2": {"patterns.py"},
    "structlog": {"observers.py"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at run time) for each import of a file."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, *, run_time: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.body:
                visit(statement, run_time=False)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, run_time) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", run_time))
            found.extend(
                (f"{node.module}.{alias.name}", run_time)
                for alias in node.names
                if (node.module or "").startswith("mbactor")
            )
        for inner in ast.iter_child_nodes(node):
            visit(inner, run_time=run_time)

    visit(ast.parse(path.read_text()), run_time=True)
    return found


def package_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "mbactor" or len(parts) == 1:
        return None
    return "leaves" if parts[1] in LEAVES else parts[1] if parts[1] in LAYERS else None


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_follow_the_arrows(path: Path) -> None:
    own = package_of("mbactor." + relative(path).removesuffix(".py").replace("/", "."))
    if own is None:
        return
    for module, _ in imports_of(path):
        target = package_of(module)
        if target is not None and target != own:
            assert target in MAY_IMPORT[own], f"{relative(path)} ({own}) imports {module} ({target})"


@pytest.mark.parametrize("path", [p for p in MODULES if relative(p).startswith("foreman/")], ids=relative)
def test_the_engine_knows_no_actors(path: Path) -> None:
    if path.stem in OF_THE_TREE or path.stem == "__init__":
        return
    for module, _ in imports_of(path):
        assert package_of(module) not in {"kernel", "supervisor"}, f"{relative(path)} imports {module}"
        assert module.removeprefix("mbactor.foreman.").split(".")[0] not in OF_THE_TREE, (
            f"{relative(path)} imports {module}"
        )


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_driver_is_imported_by_its_one_module(path: Path) -> None:
    for module, run_time in imports_of(path):
        allowed = DRIVERS.get(module.split(".")[0])
        if allowed is not None and run_time:
            assert relative(path) in allowed, f"{relative(path)} imports {module}"


def test_no_module_imports_itself_in_a_circle_at_the_top() -> None:
    """So each can be imported first: no order matters."""
    names = {
        "mbactor." + relative(p).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): p for p in MODULES
    }
    graph = {name: imported_at_once(path, names) - {name} for name, path in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def imported_at_once(path: Path, names: Collection[str]) -> set[str]:
    """Which of these a file imports as it is imported itself: not within functions, and not for checkers only."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A package is only passed through for a module of it.
            given = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {one if one in names else node.module or "" for one in given}
        todo += ast.iter_child_nodes(node)
    return found & set(names)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_promises(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{relative(path)} has no docstring"


def test_the_front_door_is_light() -> None:
    script = (
        "import sys, time; begun = time.process_time(); import mbactor; took = time.process_time() - begun\n"
        "heavy = {'nats','aiosqlite','asyncpg','asyncmy','starlette','uvicorn','opentelemetry','sqlite3','yaml','rich','click'}\n"
        "print(took, *sorted(heavy & set(sys.modules)))"
    )
    took, *heavy = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not heavy
    assert float(took) < 0.150


def test_an_actor_and_a_system_need_no_driver_web_or_telemetry_package() -> None:
    script = (
        "import sys; from mbactor import Actor, ActorSystem, Supervisor, child, endpoint\n"
        "from mbactor.foreman import Flow, Flows, Graph, task, workflow\n"
        "heavy = {'nats','aiosqlite','asyncpg','asyncmy','starlette','uvicorn','opentelemetry','sqlite3','rich','click'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def _calls(function: str) -> list[str]:
    """The first argument of each call of a function, where that is a text."""
    names = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            called = node.func
            name = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if name == function and isinstance(node.args[0].value, str):
                names.append(node.args[0].value)
    return names


def test_every_seam_is_passed_at_exactly_one_place() -> None:
    assert sorted(_calls("checkpoint")) == sorted(SEAMS)


def test_every_event_is_listed_and_every_listed_event_is_told() -> None:
    assert set(_calls("emit")) == set(EVENTS)
