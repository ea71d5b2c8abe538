"""A flow that does everything a flow can do, driven to its end in a process that may be killed anywhere on the way.

    python -m tests.faults.busy     # jobs as lines of JSON in, what became of each as lines of JSON out

The process that reads the jobs starts nothing but forks of itself, so one more process costs a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

from mbactor import seams
from mbactor.errors import FlowConflict
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.sweep import sweep_regularly
from mbactor.testing import faults
from tests.foreman.world import Task, World, a_world

LEASE = 0.4
AT_ONCE = 4
"""Jobs that run side by side: most of their time is spent waiting for leases to be over."""


class Job(TypedDict):
    url: str
    journal: str
    seam: str
    """Where the first process is killed; "" for nowhere."""
    at: int


class Told(TypedDict):
    job: Job
    killed: bool
    error: str
    outcome: Any
    steps: list[list[Any]]
    """(flow's workflow, node, status, attempt), sorted."""
    ran: list[str]
    """The keys of the steps whose tasks ran, as often as they did."""
    keys: list[str]
    """The keys of the steps that there are."""
    passed: dict[str, int]


def busy_graph() -> Graph:
    """Branches for each element, a fan-out within them, a call, a question, an error, a loop and a nap."""
    graph = Graph("busy")
    graph.add_transition_for_each("spread", "part", for_each="numbers", as_="number")
    graph.add_transition_fan_out("part", "left", "right")
    for name in ("left", "right"):
        graph.add_transition(name, "inner")
    graph.set_fan_in("inner")
    graph.add_transition("inner", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", "call")
    graph.add_subgraph("call", "called", inputs=["sum_parts"], outputs=["doubled"])
    graph.add_transition("call", "ask")
    graph.add_transition("ask", "break")
    graph.add_transition_on_error("break", "mend")
    graph.add_transition("mend", "loop")
    graph.add_transition_goto("loop", "loop")
    graph.add_transition("loop", "nap")
    graph.add_transition("nap", "last")
    graph.add_transition("last", END)
    return graph


def called_graph() -> Graph:
    graph = Graph("called")
    graph.add_transition_chain("double", "doubt", END)
    return graph


def quiet(_: Flow) -> None: ...


async def part(flow: Flow) -> None:
    await asyncio.sleep(0.005)
    if flow["number"] == 2 and flow.attempt == 0:
        flow.retry(initial_delay=0.02)
    flow["list_parts"] = [flow["number"]]


def side(flow: Flow) -> None:
    flow["sum_parts"] = flow["number"]


def double(flow: Flow) -> None:
    flow["doubled"] = 2 * flow["sum_parts"]


def ask(flow: Flow) -> None:
    flow["answers"] = [*flow.get("answers", []), flow.interrupt({"of": flow.step_key})]


def fail(_: Flow) -> None:
    raise ValueError("broken on purpose")


def mend(flow: Flow) -> None:
    flow["mended"] = flow["on_err"]["error"]
    del flow["on_err"]


def loop(flow: Flow) -> None:
    flow["rounds"] = flow.get("rounds", 0) + 1
    if flow["rounds"] < 3:
        flow.goto("loop")


def nap(flow: Flow) -> None:
    flow.sleep(0.02)


BUSY = {
    "spread": quiet, "part": part, "left": side, "right": side, "inner": quiet, "join": quiet, "ask": ask,
    "break": fail, "mend": mend, "loop": loop, "nap": nap, "last": quiet,
}  # fmt: skip
CALLED = {"double": double, "doubt": ask}


async def prepare(world: World, ran: Callable[[Flow], None]) -> None:
    """Make the flow known to a world; `ran` is told of every run of a task."""

    def told(task: Task) -> Task:
        def run(flow: Flow) -> Any:
            ran(flow)
            return task(flow)

        return run

    await world.graph(called_graph(), **{name: told(task) for name, task in CALLED.items()})
    await world.graph(busy_graph(), **{name: told(task) for name, task in BUSY.items()})


async def drive(job: Job) -> dict[str, Any]:
    """From the flow's creation, or from where another process left it, to its end."""
    journal = os.open(job["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def ran(flow: Flow) -> None:
        os.write(journal, f"{flow.step_key}\n".encode())

    async with a_world(job["url"], workers=2, lease=LEASE, poll_interval=0.02) as world:
        await prepare(world, ran)
        sweeping = asyncio.create_task(sweep_regularly(world.engine))
        key = await world.engine.create("busy", {"numbers": [1, 2, 3]}, FlowOptions(idempotency_key="the one"))
        outcome = await world.engine.wait(key)
        while outcome.status == "interrupted":
            with contextlib.suppress(FlowConflict):
                await world.engine.resume(key, {"yes": True}, outcome.interrupts[0][0])
            outcome = await world.engine.wait(key)
        sweeping.cancel()
        rows = await world.sql("""SELECT f.workflow, s.node, s.status, s.attempt, s.id, s.token FROM mbactor_step s
            JOIN mbactor_flow f ON f.id = s.flow_id ORDER BY f.workflow, s.node, s.status, s.attempt""")
    return {
        "outcome": [outcome.status, outcome.state],
        "steps": [list(row[:4]) for row in rows],
        "keys": [f"1-{row[4]}-{row[5]}" for row in rows],
    }


def driven(job: Job) -> dict[str, Any]:
    return asyncio.run(drive(job))


def counted(job: Job) -> dict[str, Any]:
    """Drive the flow, counting the passages of every seam."""
    passed: Counter[str] = Counter()

    def counting(name: str) -> seams.Fault:
        async def fault(**_: Any) -> None:
            passed[name] += 1

        return fault

    with ExitStack() as stack:
        for name in seams.SEAMS:
            stack.enter_context(seams.armed(name, counting(name)))
        return {**driven(job), "passed": dict(passed)}


def killed(job: Job) -> dict[str, Any]:
    """Drive the flow until this process is killed."""
    with faults.killing(job["seam"], at=job["at"]):
        return driven(job)


def forked(work: Callable[[Job], dict[str, Any]], job: Job) -> tuple[int, dict[str, Any]]:
    """Do it in a process of its own; how that ended (as `os.waitpid` has it), and what it told."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(tell, json.dumps(work(job)).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the test is to see it
            os.write(tell, json.dumps({"error": traceback.format_exc()}).encode())
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        data = pipe.read()
    return os.waitpid(pid, 0)[1], json.loads(data) if data else {}


def do(job: Job) -> Told:
    """Kill a process where the job says, start another one, and tell what there is at the end."""
    status, found = (0, {}) if job["seam"] else forked(counted, job)
    if job["seam"]:
        status, found = forked(killed, job)
        was_killed = os.WIFSIGNALED(status)
        if was_killed:
            status, found = forked(driven, job)
    else:
        was_killed = False
    ran = Path(job["journal"]).read_text().split()
    empty: dict[str, Any] = {"error": "", "outcome": None, "steps": [], "keys": [], "passed": {}}
    told: Any = {**empty, **found, "job": job, "killed": was_killed, "ran": ran}
    if status and not told["error"]:
        told["error"] = f"the second process ended with {status}"
    return told  # type: ignore[no-any-return]


def main() -> None:
    running: dict[int, Path] = {}
    jobs: list[Job] = [json.loads(line) for line in sys.stdin]
    while jobs or running:
        while jobs and len(running) < AT_ONCE:
            job = jobs.pop(0)
            told = Path(job["journal"]).with_suffix(".told")
            pid = os.fork()
            if pid == 0:
                told.write_text(json.dumps(do(job)))
                os._exit(0)
            running[pid] = told
        print(running.pop(os.wait()[0]).read_text(), flush=True)


if __name__ == "__main__":
    main()
