"""Benchmarks: what the library costs beside the least that could be paid, measured in the same run.

    python -m benchmarks                                  lists them
    python -m benchmarks actors --json > before.json      JSON lines, for programs and for comparing
    python -m benchmarks actors --against before.json     a column with the change

`harness.py` measures a case and its floor in turn, `report.py` shows and compares the results; `actors.py` and
`flows.py` say what is measured. On a machine that does other work too, read the ratios.
"""
