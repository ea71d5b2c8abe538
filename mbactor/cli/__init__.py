"""The `mbactor` command: `run`, `check` and `tree` of a topology file, `schema` of its format.

`main.py` has the commands and their options, `run.py` a tree in the foreground. `live.py` shows the one that runs:
`link.py` asks it, `table.py` draws it (pure).
"""
