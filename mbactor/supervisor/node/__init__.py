"""Nodes: children in OS processes of their own.

`process.py` is such a child as its supervisor has it, `main.py` what runs in the process, and `frames.py` what the two
say to each other. `place.py` is how it reaches the others, `output.py` prints what it prints.
"""
