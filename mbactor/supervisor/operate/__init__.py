"""A running tree compared with its file, and changed by people.

`plan.py` says which steps make one tree of another (pure), `applying.py` carries them out. `operator.py` is what may be
asked, by name too (`by_name.py`, `paths.py`), and `control.py` answers it on a socket (`sockets.py`).
"""
