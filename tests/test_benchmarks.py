"""The benchmarks run, say what they measured in one shape, and refuse to report a run that went wrong."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import flows
from benchmarks.harness import Bench, Figure, InvalidRun, Measured, Result, event_loops, machine, percentiles
from benchmarks.report import change, number, read_former, to_json
from mbactor import ActorSystem
from mbactor.foreman import Flows, Foreman

ROOT = Path(__file__).parent.parent
PATIENCE = 100
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
    assert not done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def actors() -> subprocess.CompletedProcess[str]:
    return run("actors", "--quick", "--json")


def sane(results: list[dict[str, Any]], benchmark: str) -> None:
    assert {result["loop"] for result in results} == set(event_loops())
    for result in results:
        assert result.keys() >= KEYS
        assert result["benchmark"] == benchmark
        assert result["quick"] is True
        assert result["value"] > 0
        assert result["floor"] > 0
        assert result["ratio"] > 0


def test_actors_are_measured_beside_their_floor_on_every_event_loop(actors: subprocess.CompletedProcess[str]) -> None:
    results = results_of(actors)
    sane(results, "actors")
    by_case = {result["case"]: result for result in results if result["loop"] == "asyncio"}
    assert list(by_case) == [
        "tell", "ask p50", "ask p99", "ask, one at a time", "ask, 64 in flight", "spawn", "idle actor",
    ]  # fmt: skip
    assert by_case["idle actor"]["unit"] == "bytes"
    assert by_case["ask p50"]["value"] <= by_case["ask p99"]["value"]
    # Bookkeeping can't be free: a floor above its case would be measured wrongly.
    assert by_case["tell"]["ratio"] < 1
    assert by_case["spawn"]["ratio"] < 1
    assert by_case["idle actor"]["ratio"] > 1


def test_flows_are_measured_beside_one_commit_a_step_on_a_strictly_durable_database() -> None:
    results = results_of(run("flows", "--quick", "--json", "--loop", "asyncio"))
    assert [result["case"].partition(",")[0] for result in results] == ["linear 10"] * 3 + ["fan-out 16 and fan-in"]
    for result in results:
        assert result.keys() >= {*KEYS, "p50_ms", "p95_ms", "p99_ms", "in_flight", "flows"}
        assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]
        assert result["flows"] >= result["in_flight"]
        assert result["database"]["journal_mode"] == "wal"
        assert result["database"]["synchronous"] == "FULL"
    assert results[-1]["ratio_to_linear"] > 0


def test_a_former_run_is_shown_as_a_change(tmp_path: Path, actors: subprocess.CompletedProcess[str]) -> None:
    former = tmp_path / "former.json"
    former.write_text(actors.stdout)
    shown = run("actors", "--quick", "--loop", "asyncio", "--against", str(former))
    assert shown.returncode == 0, shown.stderr
    assert "change" in shown.stdout
    assert "mbactor 0." in shown.stdout
    assert "loop asyncio" in shown.stdout


def test_without_a_name_the_benchmarks_are_listed() -> None:
    listed = CliRunner().invoke(command.main, [])
    assert listed.exit_code == 0
    assert "actors" in listed.output
    assert "flows" in listed.output


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    refused = run("nonsense")
    assert refused.returncode == 2
    assert "no benchmark 'nonsense'; there are: actors, flows" in refused.stderr


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
    flows.check(file, load)
    db = sqlite3.connect(file)
    db.execute(damage)
    db.commit()
    db.close()
    with pytest.raises(InvalidRun, match=told):
        flows.check(file, load)


def passes_of(order: list[str], name: str, rates: list[float]) -> Callable[[], Any]:
    numbers = iter(rates)

    async def measured() -> Measured:
        order.append(name)
        return {"rate": next(numbers)}

    return measured


def measured_result() -> tuple[Result, list[str]]:
    order: list[str] = []
    bench = Bench("toy", "asyncio", quick=True, machine=machine())

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
        {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99}
    )
    assert percentiles([0.001], "us") == pytest.approx({"p50_us": 1000, "p95_us": 1000, "p99_us": 1000})


def test_numbers_are_shown_with_three_figures() -> None:
    assert [number(n) for n in (12345.6, 12.345, 0.012345, None)] == ["12,346", "12.3", "0.0123", ""]
