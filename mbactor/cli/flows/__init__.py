"""`mbactor flows ...`: look at flows and steer them, over their database.

`commands.py` has the commands and their options, `database.py` opens what they work on, `table.py` and `card.py` draw,
`watch.py` redraws, `checking.py` compares the graphs of open flows with code. No task is run here, and nothing that is
done needs a Foreman to run: it finds what was changed.
"""
