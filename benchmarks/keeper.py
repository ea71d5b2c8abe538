"""Runs a program that does not end by itself until this one's input ends, and not longer.

    python -m benchmarks.keeper PROGRAM ARGUMENTS...

Prints the program's process id. Whoever holds the other end of the input may end in whatever way: so does the program.
"""

from __future__ import annotations

import subprocess
import sys


def main(command: list[str]) -> int:
    """Exit code of the program where it ends by itself, else 0."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as program:
        print(program.pid, flush=True)
        sys.stdin.buffer.read()
        ended = program.poll()
        program.kill()
    return ended or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
