"""The `mbactor` command: `run`, `check` and `tree` of a topology file, `schema` of its format, and what is done to a
tree that runs: `plan`, `apply`, `stop`, `start`, `restart`.

`main.py` has the commands and their options, `run.py` a tree in the foreground. `live.py` shows the one that runs and
`operate.py` changes it: `link.py` asks it, `table.py` and `steps.py` draw what it answers (pure).
"""
