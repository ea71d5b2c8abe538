"""`mbactor flows ...`: look at flows and steer them, over their database.

`look_commands.py`, `steer_commands.py` and `shard_commands.py` have the commands, `group.py` the options that they
share; `database.py` opens what they work on, `table.py` and `card.py` draw, `columns.py` makes tables fit, `watch.py`
redraws, `checking.py` compares the graphs of open flows with code. No task is run here, and nothing that is done needs
a Foreman to run: it finds what was changed.
"""
