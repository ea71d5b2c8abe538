"""Benchmarks: what the library costs beside the least that could be paid, measured in the same run.

    python -m benchmarks                                  lists them
    python -m benchmarks actors                           all cases, on each event loop, in a few minutes
    python -m benchmarks actors --only tell --only big    the cases with one of these in their names
    python -m benchmarks actors --json > before.json      JSON lines, for programs and for comparing
    python -m benchmarks actors --against before.json     a column with the change
    python -m benchmarks actors --svg charts              bar charts too: charts/actors-floor.svg and the like

`harness.py` measures a case and its floor in turn, `report.py` shows and compares the results, `charts.py` and
`svg.py` draw them; `actors.py` and `flows.py` say what is measured. On a machine that does other work too, read the
ratios. Where a case has a target, its table says whether it is met. Other actor libraries are measured where they are
installed: `pip install -e '.[peers]'`.
"""
