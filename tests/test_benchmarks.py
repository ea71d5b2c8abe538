"""The benchmarks run, say what they measured in one shape, and refuse to report a run that went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import awake, charts, databases, flows, neighbours, peers, savina, supervision, svg, transport, ways
from benchmarks.harness import (
    Bench,
    Better,
    Figure,
    InvalidRun,
    Measured,
    Result,
    Target,
    event_loops,
    machine,
    percentiles,
)
from benchmarks.load import Load
from benchmarks.load import run as run_load
from benchmarks.messages import Counter
from benchmarks.raw_nats import RawNats
from benchmarks.report import change, number, read_former, target_of, to_json
from mbactor import ActorStopped, ActorSystem, Mailbox
from mbactor.foreman import Flows, Foreman
from tests.process import alive, of_threads

ROOT = Path(__file__).parent.parent
PATIENCE = 280
NOISE = 10
"""By so much what else a machine does may shift the ratio of two short passes: a floor that is wrong is further off."""
KEYS = {"benchmark", "case", "value", "unit", "floor", "floor_is", "ratio", "spread", "loop", "machine", "os", "python"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def results_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    # What is not installed, or where the charts are, is told beside the figures.
    assert not [line for line in done.stderr.splitlines() if "skipped" not in line and "written: " not in line]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def charted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("charts")


@pytest.fixture(scope="module")
def actors(charted: Path) -> subprocess.CompletedProcess[str]:
    """Every case, as small as can be, on one event loop."""
    return run("actors", "--quick", "--json", "--loop", "asyncio", "--svg", str(charted))


@pytest.fixture(scope="module")
def by_case(actors: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {result["case"]: result for result in results_of(actors)}


def sane(results: list[dict[str, Any]], benchmark: str) -> None:
    for result in results:
        assert result.keys() >= KEYS
        assert result["benchmark"] == benchmark
        assert result["quick"] is True
        assert result["value"] > 0
        assert result["floor"] > 0
        assert result["ratio"] > 0
        if "mean_us" in result:
            assert result["mean_us"] > 0
            assert result["p99_us"] > 0
            assert result["floor_p99_us"] > 0


def cases_of(by_case: dict[str, dict[str, Any]], group: str) -> list[str]:
    return [case for case, result in by_case.items() if result["group"] == group]


def test_messages_are_measured_beside_their_floor_on_every_event_loop() -> None:
    results = results_of(run("actors", "--quick", "--json", "--only", "messages"))
    sane(results, "actors")
    assert {result["loop"] for result in results} == set(event_loops())
    by_case = {result["case"]: result for result in results if result["loop"] == "asyncio"}
    assert list(by_case) == ["tell", "ask p50", "ask p99", "ask, one at a time", "ask, 64 in flight"]
    assert by_case["ask p50"]["value"] <= by_case["ask p99"]["value"]
    # Bookkeeping can't be free: a floor above its case would be measured wrongly.
    assert by_case["tell"]["ratio"] < NOISE
    assert [case for case, result in by_case.items() if result["target"]] == ["tell", "ask, one at a time"]
    assert by_case["tell"]["met"] is (by_case["tell"]["ratio"] >= 0.30)


def test_every_case_of_the_actors_says_the_same_things(actors: subprocess.CompletedProcess[str]) -> None:
    sane(results_of(actors), "actors")


def test_idle_actors_are_measured_one_by_one_and_as_a_crowd(by_case: dict[str, dict[str, Any]]) -> None:
    cases = cases_of(by_case, "idle actors")
    assert cases[:4] == ["spawn", "idle actor", "1,000 idle, spawn all", "1,000 idle, stop all"]
    assert by_case["idle actor"]["unit"] == "bytes"
    assert by_case["idle actor"]["target"] == {"bound": 4096, "of": "value"}
    assert by_case["spawn"]["ratio"] < NOISE
    for case in cases[1:]:
        assert by_case[case]["ratio"] > 1 / NOISE


def test_savina_comes_to_its_results_beside_bare_tasks(by_case: dict[str, dict[str, Any]]) -> None:
    assert cases_of(by_case, "Savina") == [
        "ping-pong, tell", "ping-pong, ask", "thread ring", "counting", "fork-join create", "big",
    ]  # fmt: skip
    for case in cases_of(by_case, "Savina"):
        assert by_case[case]["size"]
        assert by_case[case]["ratio"] < NOISE


def test_features_are_measured_beside_the_bare_message(by_case: dict[str, dict[str, Any]]) -> None:
    cases = cases_of(by_case, "features")
    for kind in ("tell", "ask"):
        for feature in ("features it does not use", "a listener to events", "tracing"):
            assert f"{kind}, with {feature}" in cases


def test_a_bad_client_gets_its_answers_while_a_neighbour_is_measured(by_case: dict[str, dict[str, Any]]) -> None:
    cases = cases_of(by_case, "a bad client")
    assert cases == ["ask p99 beside an actor that restarts", "ask p99 beside an actor that resumes"]
    for case in cases:
        assert "ActorCrashed" in by_case[case]["note"]


def test_a_peer_is_measured_or_the_line_says_why_not(
    actors: subprocess.CompletedProcess[str], by_case: dict[str, dict[str, Any]]
) -> None:
    for peer in peers.PEERS:
        if peer.installed:
            told, asked = by_case[f"tell, beside {peer.name}"], by_case[f"ask, beside {peer.name}"]
            assert told["floor_is"].startswith(f"{peer.package} ")
            assert bool(told["target"]) is bool(asked["target"]) is (peer.name == "Pykka")
        else:
            assert f"{peer.name}: not installed, skipped; pip install '{peer.package}'" in actors.stderr


def quick_bench(name: str = "actors") -> Bench:
    return Bench(name, "asyncio", quick=True, machine=machine())


def test_a_peer_that_is_not_there_or_does_not_run_is_skipped_and_the_others_are_measured() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[peers.Adder]:
        raise OSError("no such thing on this machine")
        yield

    bench = quick_bench()
    absent = peers.Peer("Nobody", "no_such_package_is_installed", "not at all", peers.ours)
    fails = peers.Peer("Broken", "mbactor", "not at all", broken)
    works = peers.Peer("Itself", "mbactor", "as it is", peers.ours)
    results = asyncio.run(peers.measure_beside(bench, [absent, fails, works]))
    assert [result.case for result in results] == ["tell, beside Itself", "ask, beside Itself"]
    assert bench.skipped == [
        "Nobody: not installed, skipped; pip install 'no_such_package_is_installed'",
        "Broken: it does not run here, skipped; OSError: no such thing on this machine",
    ]


# --- charts ------------------------------------------------------------------------------------------------


def test_charts_are_written_for_light_and_dark_pages_with_values_labels_machine_and_date(
    charted: Path, by_case: dict[str, dict[str, Any]]
) -> None:
    names = {file.name for file in charted.iterdir()}
    assert names >= {"actors-floor.svg", "actors-savina.svg"}
    for name in names:
        text = (charted / name).read_text()
        texts = [element.text or "" for element in ET.fromstring(text).iter() if element.tag.endswith("text")]
        assert "prefers-color-scheme:dark" in text
        assert any(by_case["tell"]["machine"] in each and "-" in each for each in texts)
        assert "asyncio" in texts
    floor = (charted / "actors-floor.svg").read_text()
    assert f"{number(by_case['tell']['ratio'])}  ({number(by_case['tell']['value'])}/s)" in floor


def test_a_bar_is_as_long_as_its_value_and_its_text_does_not_hide_the_target() -> None:
    row = svg.Row("one & two", [svg.Bar("a", 1.0, "1"), svg.Bar("b", 0.5, "half", target=0.51)])
    drawn = svg.draw(svg.Chart("<t>", "axis", "here", ["a", "b"], [svg.Panel("", [row])]))
    root = ET.fromstring(drawn)
    bars = [element for element in root.iter() if element.get("class", "").startswith("series")][-2:]
    assert float(bars[0].attrib["width"]) == pytest.approx(2 * float(bars[1].attrib["width"]), abs=0.2)
    target = float([e for e in root.iter() if e.get("class") == "target"][-1].attrib["d"].split()[0][1:])
    half = next(element for element in root.iter() if element.text == "half")
    assert float(half.attrib["x"]) > target


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_an_axis_has_a_few_round_ticks_and_its_last_is_not_below_the_longest_bar(most: float) -> None:
    ticks = svg.ticks_to(most)
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] >= most * (1 - 1e-6)
    assert ticks[-2] < most


def test_ticks_are_short() -> None:
    assert [svg.tick_text(tick) for tick in (0, 0.25, 150000, 2.5e6)] == ["0", "0.25", "150,000", "2.5M"]


# --- supervision -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], Path]:
    """Every case, as small as can be, on one event loop; and the charts."""
    charts = tmp_path_factory.mktemp("charts")
    results = results_of(run("supervision", "--quick", "--json", "--loop", "asyncio", "--svg", str(charts)))
    sane(results, "supervision")
    return {result["case"]: result for result in results}, charts


def test_restarts_are_measured_beside_bare_tasks_that_raise_and_are_created_anew(
    supervised: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, _ = supervised
    assert cases_of(by_case, "restarts") == [
        "restart of one actor", "restarts, one by one", "crash to first answer, p50", "crash to first answer, p99",
        "100 crash at once", "one_for_all of 100, one crash",
    ]  # fmt: skip
    assert by_case["restart of one actor"]["target"] == {"bound": 10.0, "of": "ratio"}
    assert 1 / NOISE < by_case["restart of one actor"]["ratio"] < 10 * NOISE
    assert by_case["crash to first answer, p50"]["value"] <= by_case["crash to first answer, p99"]["value"]
    assert by_case["100 crash at once"]["ratio"] < 10 * NOISE


def test_trees_are_measured_beside_as_many_bare_tasks(
    supervised: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, _ = supervised
    trees = ["nested tree", "supervisor", "dynamic supervisor"]
    assert cases_of(by_case, "trees") == [f"{name} of 500, {what}" for name in trees for what in ("start", "stop")]
    for case in cases_of(by_case, "trees"):
        assert by_case[case]["ratio"] < 10 * NOISE
    assert cases_of(by_case, "memory") == [f"{name}, each" for name in trees]
    for case in cases_of(by_case, "memory"):
        assert by_case[case]["value"] < 4096


def test_supervision_is_drawn_with_the_target_of_a_restart_as_a_share(
    supervised: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, folder = supervised
    [chart] = folder.iterdir()
    assert chart.name == "supervision-floor.svg"
    restart = by_case["restart of one actor"]
    assert f"{number(1 / restart['ratio'])}  ({number(restart['value'])} us)" in chart.read_text()
    bar = charts.share_of(replace(measured_result()[0], better="lower", target=Target(10.0)))
    assert bar.target == pytest.approx(0.1)


@pytest.mark.anyio
@pytest.mark.parametrize("grow", [supervision.flat, supervision.dynamic, supervision.nested])
async def test_ten_times_as_many_children_take_less_than_fifty_times_as_long(grow: supervision.Grow) -> None:
    async def took(count: int) -> float:
        """The processor's time to start and to stop them."""
        async with ActorSystem() as system:
            began = time.process_time()
            await (await grow(system, count)).stop()
            return time.process_time() - began

    few = min([await took(200) for _ in range(3)])
    assert await took(2_000) < 50 * few


# --- transport ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], Path]:
    """A case of each kind, over a real server, between real processes; and the charts."""
    charts = tmp_path_factory.mktemp("charts")
    wanted = ["requests: 64 B, 1 in flight", "cores awake: 64 B", "20,000/s", "in one process"]
    only = [word for text in wanted for word in ("--only", text)]
    results = results_of(run("transport", "--quick", "--json", "--loop", "asyncio", "--svg", str(charts), *only))
    sane(results, "transport")
    return {result["case"]: result for result in results}, charts


def test_requests_between_processes_are_measured_beside_other_ways_of_the_same_run(
    transported: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, _ = transported
    assert cases_of(by_case, "beside nats-py") == ["64 B, 1 in flight", "64 B, 1 in flight, p50"]
    assert by_case["64 B, 1 in flight, p50"]["target"] == {"bound": 0.8, "of": "ratio"}
    assert by_case["64 B, 1 in flight"]["p50_us"] <= by_case["64 B, 1 in flight"]["p99_us"]
    assert by_case["64 B, 1 in flight"]["floor_is"].startswith("nats-py 2.")
    assert by_case["64 B, 1 in flight, beside raw"]["floor_is"].startswith("the floor")
    assert ("64 B, 1 in flight, beside HTTP/1.1" in by_case) is ways.WAYS[ways.HTTP].installed
    spent = by_case["CPU, 64 B, 1 in flight"]
    assert spent["value"] == pytest.approx(spent["asker_us"] + spent["server_us"] + spent["taker_us"])


def test_the_transport_is_measured_in_all_sizes_at_all_depths_and_rates_and_against_its_targets() -> None:
    refused = CliRunner().invoke(command.main, ["transport", "--only", "nonsense", "--loop", "asyncio"])
    offered = {line.strip() for line in refused.output.partition("there are:\n")[2].splitlines()}
    depths = [f"{count} in flight" for count in ("1", "16", "128", "1,024")]
    spread = "64 B, 1,024 in flight, 16 destinations"
    assert offered >= {f"requests: {size}, {depth}" for size in ("64 B", "1 KB", "16 KB") for depth in depths}
    assert offered >= {f"coalescing: 64 B, {depth}" for depth in depths}
    assert offered >= {f"requests: {spread}", f"coalescing: {spread}"}
    assert offered >= {f"open loop: {rate}/s offered" for rate in ("20,000", "50,000", "80,000")}
    here = "in one process: empty body, 10,000 in flight"
    assert offered >= {f"{here}, over NATS", f"{here}, without a broker"}
    most = "64 B, 1,024 in flight"
    assert {
        (most, ways.NATS_PY): Target(3.0),
        (most, ways.HTTP): Target(6.0),
        (most, ways.RAW): Target(100_000, of="value"),
        (spread, ways.NATS_PY): Target(1.8),
    } == transport.TARGETS


@pytest.mark.skipif(not awake.POSSIBLE, reason="SCHED_IDLE is Linux's")
def test_one_in_flight_is_measured_on_cores_that_are_kept_awake_too(
    transported: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, _ = transported
    assert cases_of(by_case, "cores awake") == ["64 B, 1 in flight, cores awake, p50"]
    assert by_case["64 B, 1 in flight, cores awake, p50"]["target"] == {"bound": 0.8, "of": "ratio"}


@pytest.mark.skipif(not awake.POSSIBLE, reason="SCHED_IDLE is Linux's")
@pytest.mark.anyio
async def test_every_core_has_work_of_the_lowest_priority_while_cores_are_kept_awake() -> None:
    async with awake.cores_awake() as workers:
        assert {os.sched_getscheduler(pid) for pid in workers} == {os.SCHED_IDLE}
        assert [os.sched_getaffinity(pid) for pid in workers] == [{core} for core in sorted(os.sched_getaffinity(0))]
    assert not any(alive(pid) for pid in workers)


def test_an_open_loop_tells_what_was_answered_and_two_systems_of_one_process_are_measured(
    transported: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, _ = transported
    figures = ["p50", "p99", "achieved", "answered"]
    assert cases_of(by_case, "open loop") == [f"20,000/s offered, {figure}" for figure in figures]
    assert by_case["20,000/s offered, answered"]["met"] is True
    assert by_case["20,000/s offered, achieved"]["value"] < 30_000
    assert [by_case[case]["floor"] for case in cases_of(by_case, "in one process")] == [106_000, 154_000]


def test_the_charts_of_the_transport_show_the_ways_the_processes_and_the_open_loop(
    transported: tuple[dict[str, dict[str, Any]], Path],
) -> None:
    by_case, charts = transported
    drawn = {file.name: file.read_text() for file in charts.iterdir()}
    assert drawn.keys() == {f"transport-{name}-asyncio.svg" for name in ("rates", "cpu", "open")}
    rates = texts_of(drawn["transport-rates-asyncio.svg"])
    assert {"64 B", "1 in flight", "mbactor", "nats-py", "raw"} <= set(rates)
    asked = by_case["64 B, 1 in flight"]
    assert number(asked["value"]) in rates
    assert f"{number(asked['floor'])}  (mbactor {number(asked['ratio'])} x)" in rates
    spent = by_case["CPU, 64 B, 1 in flight"]
    assert f"mbactor: {number(spent['value'])} us" in texts_of(drawn["transport-cpu-asyncio.svg"])
    waited = by_case["20,000/s offered, p99"]["value"] / 1e3
    assert number(waited) in texts_of(drawn["transport-open-asyncio.svg"])


def texts_of(chart: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(chart).iter() if element.tag.endswith("text")]


def offspring(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    try:
        children = {int(number) for started in of_threads(pid, "children") for number in started.split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return children.union(*(offspring(child) for child in children))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_transport_benchmark_that_is_interrupted_or_killed(sent: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "transport", "--loop", "asyncio", "--only", "64 B, 1 in flight"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as benchmark:
        deadline = time.monotonic() + PATIENCE
        while len(started := offspring(benchmark.pid)) < 4:  # the server, its keeper, an asker and a taker
            assert benchmark.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        benchmark.send_signal(sent)
        assert benchmark.wait(PATIENCE) != 0
    while any(alive(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def right(body: bytes) -> bytes:
    return body


async def wrong(body: bytes) -> bytes:
    return body + b"!"


async def stopped(body: bytes) -> bytes:
    raise ActorStopped(f"echo, asked with {len(body)} bytes")


def test_a_wrong_answer_makes_a_closed_loop_invalid() -> None:
    with pytest.raises(InvalidRun, match="an answer was wrong"):
        asyncio.run(run_load([wrong], Load(8, 0.01, 0, in_flight=2)))


def test_an_open_loop_counts_what_was_not_answered_and_why() -> None:
    measured = asyncio.run(run_load([right, stopped], Load(8, 0.1, 0, rate=2000.0, destinations=2)))
    assert measured["lost"] == measured["failed as ActorStopped"] > 0
    assert measured["answered"] == pytest.approx(1 - measured["lost"] / measured["asked"])
    told = transport.lost([measured, measured])["fault"]
    assert told.startswith(f"{2 * measured['lost']:,.0f} of {2 * measured['asked']:,.0f} were not answered")
    assert "failed as ActorStopped" in told
    with pytest.raises(InvalidRun, match=r"none of .* asks was answered: {'a wrong answer': "):
        asyncio.run(run_load([wrong], Load(8, 0.05, 0, rate=2000.0)))


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(min_value=1, max_value=50))
def test_the_floor_of_the_transport_reads_messages_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    got: list[tuple[str, bytes]] = []
    sent = b"".join(
        b"MSG a.b 1 %s%d\r\n%s\r\n" % (b"to " * (n % 2), len(payload), payload) for n, payload in enumerate(payloads)
    )

    async def read() -> None:
        client = RawNats()
        client.connection_made(Deaf())
        client.subscribe("a.b", lambda reply, data: got.append((reply, data)))
        for at in range(0, len(sent), size):
            client.data_received(sent[at : at + size])
        await asyncio.sleep(0)

    asyncio.run(read())
    assert got == [("to" if n % 2 else "", payload) for n, payload in enumerate(payloads)]


class Deaf(asyncio.Transport):
    """Takes what is written, and does nothing with it."""

    def write(self, data: Any) -> None:
        pass


# --- flows -------------------------------------------------------------------------------------------------


def test_flows_are_measured_beside_one_commit_a_step_on_a_strictly_durable_database() -> None:
    results = results_of(run("flows", "--quick", "--json", "--loop", "asyncio"))
    cases = ["linear 10"] * 4 + ["fan-out 16 and fan-in"] * 2 + ["linear 10"]
    of = {name: [one for one in results if one["group"] == name] for name in ("SQLite", "PostgreSQL")}
    assert [one["case"].partition(",")[0] for one in of["SQLite"]] == cases
    assert [one["case"].partition(",")[0] for one in of["PostgreSQL"]] == [*cases, "linear 10"]
    assert of["PostgreSQL"][-1]["case"] == "linear 10, 8 in flight, two replicas"
    for result in results:
        assert result.keys() >= {*KEYS, "p50_ms", "p95_ms", "p99_ms", "in_flight", "flows"}
        assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]
        assert result["flows"] >= result["in_flight"]
    assert {(one["database"]["journal_mode"], one["database"]["synchronous"]) for one in of["SQLite"]} == {
        ("wal", "FULL")
    }
    durable = {(one["database"]["fsync"], one["database"]["synchronous_commit"]) for one in of["PostgreSQL"][:-1]}
    assert durable == {("on", "on")}
    (logged,) = [one for one in results if one["unit"] == "B"]
    assert 500 < logged["value"] < 10_000


def test_a_former_run_is_shown_as_a_change(tmp_path: Path, actors: subprocess.CompletedProcess[str]) -> None:
    former = tmp_path / "former.json"
    former.write_text(actors.stdout)
    shown = run(
        "actors", "--quick", "--loop", "asyncio", "--only", "ring", "--only", "in flight", "--against", str(former)
    )
    assert shown.returncode == 0, shown.stderr
    assert "change" in shown.stdout
    assert "new" not in shown.stdout
    assert "thread ring" in shown.stdout
    assert "ask, 64 in flight" in shown.stdout
    assert "counting" not in shown.stdout
    assert "mbactor 0." in shown.stdout
    assert "loop asyncio" in shown.stdout


def test_without_a_name_the_benchmarks_are_listed() -> None:
    listed = CliRunner().invoke(command.main, [])
    assert listed.exit_code == 0
    assert "actors" in listed.output
    assert "flows" in listed.output
    assert "supervision" in listed.output
    assert "transport" in listed.output


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    refused = run("nonsense")
    assert refused.returncode == 2
    assert "no benchmark 'nonsense'; there are: actors, flows, supervision, transport" in refused.stderr


def test_a_text_that_no_case_has_in_its_name_is_an_error_that_lists_the_cases() -> None:
    refused = CliRunner().invoke(command.main, ["actors", "--only", "nonsense", "--quick"])
    assert refused.exit_code == 2
    assert "no case has that in its name; there are:" in refused.output
    assert "Savina: thread ring" in refused.output


@pytest.mark.parametrize("text", ["no json", '{"benchmark": "actors"}'])
def test_a_file_that_is_no_former_run_is_an_error_that_names_the_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "former.json"
    file.write_text(f"\n{text}\n")
    refused = CliRunner().invoke(command.main, ["actors", "--against", str(file)])
    assert refused.exit_code == 2
    assert "line 2 is no result of --json" in refused.output


def test_an_invalid_run_reports_nothing_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def goes_wrong(bench: Bench) -> list[Result]:
        raise InvalidRun(f"{bench.name}: 3 steps that were recovered")

    monkeypatch.setitem(command.KNOWN, "flows", goes_wrong)
    ended = CliRunner().invoke(command.main, ["flows", "--json"])
    assert ended.exit_code == 1
    assert ended.output == "invalid run: flows: 3 steps that were recovered\n"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            "UPDATE mbactor_step SET lease_number = 2 WHERE depth = 1",
            "1 steps that were recovered, refused or run again",
        ),
        ("UPDATE mbactor_step SET attempt = 1 WHERE depth = 1", "1 steps that were recovered, refused or run again"),
        ("UPDATE mbactor_step SET status = 'failed' WHERE depth = 1", "1 steps that did not complete"),
        ("UPDATE mbactor_flow SET status = 'running'", "1 flows that did not complete"),
        ("DELETE FROM mbactor_step WHERE depth = 1", "1 flows with another number of steps than 10"),
    ],
)
def test_a_database_in_which_anything_went_astray_makes_the_run_invalid(tmp_path: Path, damage: str, told: str) -> None:
    file = tmp_path / "flows.db"
    load = flows.Load("linear", flows.Nothing.linear, {}, flows.LINEAR, 1, 0.0)

    async def one_flow() -> None:
        async with ActorSystem() as system:
            await system.spawn(Foreman, database=f"sqlite:///{file}")
            await system.spawn(flows.Nothing)
            await Flows(system).run(load.workflow)

    asyncio.run(one_flow())
    databases.check(file, load.case, load.steps)
    db = sqlite3.connect(file)
    db.execute(damage)
    db.commit()
    db.close()
    with pytest.raises(InvalidRun, match=told):
        databases.check(file, load.case, load.steps)


def passes_of(order: list[str], name: str, rates: list[float]) -> Callable[[], Any]:
    numbers = iter(rates)

    async def measured() -> Measured:
        order.append(name)
        return {"rate": next(numbers)}

    return measured


def test_a_case_that_takes_long_gets_fewer_passes() -> None:
    async def slow() -> Measured:
        await asyncio.sleep(0.02)
        return {"rate": 1.0}

    async def compare() -> list[Result]:
        bench = quick_bench()
        bench.within = 0.05
        return await bench.compare([Figure("toy", "1/s")], slow, slow, floor_is="the same", passes=1000)

    assert asyncio.run(compare())[0].passes < 10


@pytest.mark.parametrize(
    ("better", "target", "met", "shown"),
    [
        ("higher", Target(0.5), True, "≥ 0.50 [green]✓[/]"),
        ("higher", Target(0.51), False, "≥ 0.51 [red]✗[/]"),
        ("lower", Target(20, of="value"), True, "≤ 20 [green]✓[/]"),
        ("lower", Target(19, of="value"), False, "≤ 19 [red]✗[/]"),
        ("lower", None, None, ""),
    ],
)
def test_a_target_is_of_the_ratio_or_of_the_value_and_shown_with_a_mark(
    better: Better, target: Target | None, met: bool | None, shown: str
) -> None:
    result = replace(measured_result()[0], better=better, target=target)
    assert result.met is met
    assert target_of(result) == shown


def test_a_target_is_not_met_by_what_went_another_way_than_it_should() -> None:
    result = replace(measured_result()[0], target=Target(0.1), more={"fault": "not in order"})
    assert result.met is False


def test_a_benchmark_that_loses_a_message_is_invalid() -> None:
    class Full(Counter):
        mailbox = Mailbox(capacity=1)

    async def lose() -> None:
        async with ActorSystem() as system:
            full = await system.spawn(Full)
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            await savina.outcome(system, done, lambda: [full.tell(Counter.add, 1) for _ in range(10)])

    with pytest.raises(InvalidRun, match="messages were not delivered"):
        asyncio.run(lose())
    with pytest.raises(InvalidRun, match="hops: 99 instead of 100"):
        savina.check("hops", 99, 100)


async def gone(number: int) -> int:
    raise ActorStopped(f"fragile, for number {number}")


async def sound(number: int) -> int:
    return number


@pytest.mark.parametrize(("ask", "told"), [(gone, "ActorStopped"), (sound, "NoneType")])
def test_a_bad_client_whose_actor_is_gone_or_does_not_crash_makes_the_run_invalid(ask: Any, told: str) -> None:
    async def answered() -> None:
        client = neighbours.BadClient(ask)
        asking = asyncio.create_task(client.run())
        while not client.answers:
            await asyncio.sleep(0)
        asking.cancel()
        client.check("fragile")

    with pytest.raises(InvalidRun, match=f"fragile: the bad client was answered .*{told}"):
        asyncio.run(answered())


def measured_result() -> tuple[Result, list[str]]:
    order: list[str] = []
    bench = quick_bench("toy")

    async def compare() -> list[Result]:
        case = passes_of(order, "case", [1000.0, 10.0, 40.0, 20.0])
        floor = passes_of(order, "floor", [1000.0, 20.0, 40.0, 40.0])
        return await bench.compare([Figure("toy", "1/s")], case, floor, floor_is="nothing", passes=3)

    return asyncio.run(compare())[0], order


def test_case_and_floor_alternate_the_first_pass_does_not_count_and_the_median_is_taken() -> None:
    result, order = measured_result()
    assert order == ["case", "floor"] * 4
    assert (result.value, result.floor, result.ratio, result.spread) == (20.0, 40.0, 0.5, 1.5)


def test_a_result_is_read_back_as_a_former_run(tmp_path: Path) -> None:
    result, _ = measured_result()
    file = tmp_path / "former.json"
    file.write_text(to_json(result).replace('"value": 20.0', '"value": 16.0') + "\n")
    former = read_former(file)
    assert change(result, former) == pytest.approx(0.25)
    assert change(result, {}) is None


def test_percentiles_are_those_of_the_sorted_durations() -> None:
    assert percentiles([n / 1000 for n in range(100)], "ms") == pytest.approx(
        {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "mean_ms": 49.5}
    )
    assert percentiles([0.001], "us") == pytest.approx(
        {"p50_us": 1000, "p95_us": 1000, "p99_us": 1000, "mean_us": 1000}
    )


def test_numbers_are_shown_with_three_figures() -> None:
    assert [number(n) for n in (12345.6, 12.345, 0.012345, None)] == ["12,346", "12.3", "0.0123", ""]
