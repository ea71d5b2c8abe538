"""Benchmarks: what the library costs beside the least that could be paid, measured in the same run.

    python -m benchmarks                                  lists them
    python -m benchmarks actors                           all cases, on each event loop, in a few minutes
    python -m benchmarks actors --only tell --only big    the cases with one of these in their names
    python -m benchmarks actors --json > before.json      JSON lines, for programs and for comparing
    python -m benchmarks actors --against before.json     a column with the change
    python -m benchmarks actors --svg charts              bar charts too: charts/actors-floor.svg and the like

`harness.py` measures a case and its floor in turn, `report.py` shows and compares the results, `charts.py` and
`svg.py` draw them; `actors.py`, `supervision.py`, `flows.py` and `transport.py` say what is measured. On a machine that
does other work too, read the ratios. Where a case has a target, its table says whether it is met. What others do the
same with is measured where it is installed: `pip install -e '.[peers]'`.

The transport is measured between processes: `ways.py` says how each way asks and answers, `load.py` what is asked,
`side.py` runs either side in a process of its own, and `bed.py` starts and ends them, and a NATS server.
"""
