"""Where the running systems of a user are reached: one Unix socket a process, in a folder that is the user's alone.

    for found in running(Path("shop.yaml"), folders(environment())):
        print(found.pid, found.path)

The name of a socket tells which file runs in which process: `shop-1f0c3d5e7a-4711.sock`. One that refuses was left by
a process that is gone; whoever meets it removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mbactor import clock
from mbactor.errors import MbactorError, Unavailable

BACKLOG = 16
SETTLED = 5.0
"""Seconds after which a socket that refuses is not one that is just about to listen."""
_NAME = re.compile(r"(?P<system>.+)-(?P<file>[0-9a-f]{10})-(?P<pid>\d{1,9})\.sock")


class NotPrivate(MbactorError):
    """A folder that others could put things into, or read: it is not used."""

    status = 403


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs a file, and the socket on which it answers. `system` is the name of what it runs, in
    short.
    """

    pid: int
    path: Path
    system: str = ""


def folders(variables: Mapping[str, str]) -> tuple[Path, ...]:
    """Where sockets may be: the first that is fit is used, all are searched.

    Two shells of one user may differ in XDG_RUNTIME_DIR, so it is not the only place to look.
    """
    own = Path(variables.get("TMPDIR") or tempfile.gettempdir()) / f"mbactor-{os.geteuid()}"
    given = variables.get("XDG_RUNTIME_DIR", "")
    return (Path(given) / "mbactor", own) if given.startswith("/") else (own,)


def check_private(folder: Path) -> None:
    """NotPrivate where it is no folder, belongs to somebody else, or is open to others. FileNotFoundError."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{folder} is no folder of its own")
    if found.st_uid != os.geteuid():
        raise NotPrivate(f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise NotPrivate(f"{folder} is open to others (mode {mode:04o}); expected 0700")


def listen(system: str, file: Path, places: Sequence[Path]) -> tuple[socket.socket, Path]:
    """A listening socket of mode 0600 in the first folder that is fit, made with mode 0700 where it is not there.

    Unavailable, with the reason of each folder, where none is.
    """
    reasons = []
    for folder in places:
        try:
            with suppress(FileExistsError):
                folder.mkdir(0o700)
            check_private(folder)
            remove_stale(folder)
            path = folder / name_of(system, file, os.getpid())
            return _listening(path), path
        except NotPrivate as error:
            reasons.append(error.message)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise Unavailable("; ".join(reasons))


def running(file: Path | None, places: Sequence[Path]) -> list[Running]:
    """The processes that run a file (None: any), the oldest socket first. What dead ones left is removed.

    NotPrivate where nothing was found and a folder could not be trusted, or not be looked into.
    """
    wanted = None if file is None else _hash_of(file)
    found: list[tuple[float, Running]] = []
    mistrusted: NotPrivate | None = None
    for folder in places:
        try:
            found += _running_in(folder, wanted)
        except FileNotFoundError:
            continue
        except NotPrivate as error:
            mistrusted = error
        except OSError as error:  # of another user, say, whose environment this program was given
            mistrusted = NotPrivate(f"{folder}: {error.strerror or error}")
    if mistrusted is not None and not found:
        raise mistrusted
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].pid))]


def _running_in(folder: Path, wanted: str | None) -> Iterator[tuple[float, Running]]:
    check_private(folder)
    remove_stale(folder)
    for path, name in _sockets(folder):
        if wanted in {None, name["file"]}:
            with suppress(FileNotFoundError):
                began = path.lstat().st_mtime
                if answers(path):
                    yield began, Running(int(name["pid"]), path, name["system"])


def remove_stale(folder: Path) -> None:
    """Remove the sockets on which nobody listens any more."""
    for path, name in _sockets(folder):
        with suppress(FileNotFoundError):
            if not answers(path) and (not _lives(int(name["pid"])) or clock.unix() - path.lstat().st_mtime > SETTLED):
                path.unlink()


def answers(path: Path) -> bool:
    """Whether a process listens there: one that is stopped, or too busy to accept, does."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def name_of(system: str, file: Path, pid: int) -> str:
    """What the socket of a process is called: short, since the whole path may have about a hundred bytes."""
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", system).strip("-.")[:24] or "system"
    return f"{slug}-{_hash_of(file)}-{pid}.sock"


def _hash_of(file: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:10]


def _sockets(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            yield path, name


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _listening(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not answers(path):
            path.unlink()  # of a process that had the same number
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(path))
        path.chmod(0o600)  # until then the folder keeps others out
        server.listen(BACKLOG)
    except BaseException:
        server.close()
        raise
    return server
