"""The program around its commands: how it ends where what a command prints has no place.

    mbactor check shop.yaml > /dev/full      # one line on stderr, exit code 1
    mbactor schema | true                    # nothing more to say, exit code 141, as of other programs

No command looks after that itself. One that has done more than one thing notes on the error what (`add_note`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

from mbactor.kernel.settings import colours_wanted

NO_PLACE = 1
"""Exit code where the disk is full, or the like."""
NOBODY_READS = 128 + signal.SIGPIPE
_OF_WRITING = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Program(click.Group):
    """A group of commands that ends without a traceback where what it prints cannot be written."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command that the arguments name."""
        with _printing():
            try:
                return super().main(*arguments, **options)
            finally:
                for stream in _streams():
                    stream.flush()

    # Click has an end of its own for a closed pipe, with the exit code of a failure: it does not come to that.

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the arguments, and print the help where it is asked for."""
        if not colours_wanted():
            options.setdefault("color", False)
        with _printing():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _printing():
            return super().invoke(ctx)


@contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A file that a command could not read or write has a name.
        if error.filename is not None or error.errno not in _OF_WRITING:
            raise
        _end(error)


def _end(error: OSError) -> NoReturn:
    code = NOBODY_READS
    if error.errno != errno.EPIPE:
        code = NO_PLACE
        with suppress(OSError):
            told = "; ".join([str(error.strerror), *getattr(error, "__notes__", ())])
            click.echo(f"{click.style('error:', fg='red', bold=True)} cannot print: {told}", err=True)
    for stream in _streams():
        # What waits in it is dropped: Python would try again at the exit, and complain.
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _streams() -> list[TextIO]:
    """Where is printed; Python has none for what was closed when it started."""
    both: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    return [stream for stream in both if stream is not None]
