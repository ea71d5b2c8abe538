"""The command line. Exit codes: 0 measured, 1 the run is invalid, 2 a faulty command line or file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from benchmarks import actors, charts, flows, report, supervision, transport
from benchmarks.harness import Bench, InvalidRun, Result, event_loops, machine
from mbactor import observe

KNOWN: dict[str, Callable[[Bench], Coroutine[Any, Any, list[Result]]]] = {
    "actors": actors.measure,
    "flows": flows.measure,
    "supervision": supervision.measure,
    "transport": transport.measure,
}
SUMMARIES = {name: (sys.modules[measure.__module__].__doc__ or "").split("\n", 1)[0] for name, measure in KNOWN.items()}
LISTED = "\n".join(f"  {name:<12}{summary}" for name, summary in SUMMARIES.items())


@click.command(
    "python -m benchmarks",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nBenchmarks:\n{LISTED}",
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout instead of a table.")
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="FILE", help="Compare with the --json output of another run."
)
@click.option("--only", multiple=True, metavar="TEXT", help="Only the cases with TEXT in their names. May be repeated.")
@click.option(
    "--svg", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write bar charts there, too."
)
@click.option("--quick", is_flag=True, help="Small and short: shows that it works, the figures mean little.")
@click.option("--full", is_flag=True, help="The sizes that take minutes, too: Savina's big with 20,000 pings each.")
@click.option("--loop", type=click.Choice(["asyncio", "uvloop"]), help="One event loop only. Default: each installed.")
def main(
    name: str | None,
    as_json: bool,
    against: Path | None,
    only: tuple[str, ...],
    svg: Path | None,
    quick: bool,
    full: bool,
    loop: str | None,
) -> None:
    """Measure the benchmark NAME; without a name, list the benchmarks."""
    observe.LAST_RESORT_LIMIT = 0  # what crashes or blocks here is meant to; stderr is for progress
    if name is None:
        click.echo(f"Benchmarks (python -m benchmarks NAME, -h for options):\n{LISTED}")
        return
    if name not in KNOWN:
        raise click.UsageError(f"no benchmark {name!r}; there are: {', '.join(KNOWN)}")
    former = _former(against)
    here = machine()
    loops = event_loops()
    if loop is not None and loop not in loops:
        raise click.UsageError(f"--loop {loop}: it is not installed; installed: {', '.join(loops)}")
    measured: list[Result] = []
    for each in loops if loop is None else (loop,):
        bench = Bench(name, each, quick=quick, machine=here, only=only, full=full)
        results = _measure(bench, loops[each])
        report.write(results, as_json=as_json, former=former, skipped=bench.skipped)
        measured += results
    if svg is not None:
        for file in charts.write(measured, svg):
            click.echo(f"written: {file}", err=as_json)


def _measure(bench: Bench, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> list[Result]:
    """The results of one event loop; leaves the program where there is none to show."""
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            results = runner.run(KNOWN[bench.name](bench))
    except InvalidRun as error:
        bench.progress("")
        click.echo(f"{click.style('invalid run:', fg='red', bold=True)} {error}", err=True)
        sys.exit(1)
    bench.progress("")
    if not results and not bench.skipped:
        cases = "\n".join(f"  {case}" for case in bench.offered)
        raise click.UsageError(f"--only {' '.join(bench.only)}: no case has that in its name; there are:\n{cases}")
    return results


def _former(file: Path | None) -> dict[report.Key, report.Former] | None:
    if file is None:
        return None
    try:
        return report.read_former(file)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--against {file}: {error}") from None


if __name__ == "__main__":
    main()
