"""Where running systems are reached: the folder is the user's alone, and what the dead left is removed."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mbactor.errors import Unavailable
from mbactor.supervisor.operate.sockets import (
    NotPrivate,
    answers,
    check_private,
    folders,
    listen,
    name_of,
    remove_stale,
    running,
)

FILE = Path("shop.yaml")
NOBODY = 999_999_999
"""No process has this number."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        yield Path(folder) / "mbactor"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def abandon(path: Path) -> None:
    """A socket as a killed process leaves it."""
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
        dead.listen()


def test_the_run_time_folder_of_the_user_is_looked_at_before_the_temporary_one() -> None:
    own = f"mbactor-{os.geteuid()}"
    assert folders({"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": "/t"}) == (
        Path("/run/user/7/mbactor"),
        Path("/t") / own,
    )
    assert folders({"XDG_RUNTIME_DIR": "relative", "TMPDIR": "/t"}) == (Path("/t") / own,)
    assert folders({})[0].name == own


def test_a_socket_is_for_its_user_alone(place: Path) -> None:
    server, path = listen("shop", FILE, [place])
    with closing(server):
        assert (mode(place), mode(path)) == (0o700, 0o600)
        assert path.parent == place
        assert [(one.pid, one.path) for one in running(FILE, [place])] == [(os.getpid(), path)]
        assert [one.name for one in place.iterdir()] == [path.name]


def test_a_folder_that_is_open_to_others_is_refused(place: Path) -> None:
    place.mkdir(0o755)
    place.chmod(0o755)
    with pytest.raises(Unavailable, match=r"open to others \(mode 0755\); expected 0700"):
        listen("shop", FILE, [place])
    with pytest.raises(NotPrivate, match="open to others"):
        running(FILE, [place])
    assert list(place.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_somebody_else_is_refused(place: Path) -> None:
    place.mkdir(0o700)
    os.chown(place, 4711, 4711)
    with pytest.raises(Unavailable, match="belongs to user 4711, and this is user 0"):
        listen("shop", FILE, [place])


def test_a_link_to_a_folder_is_refused(place: Path) -> None:
    elsewhere = place.with_name("elsewhere")
    elsewhere.mkdir(0o700)
    place.symlink_to(elsewhere)
    with pytest.raises(NotPrivate, match="is no folder of its own"):
        check_private(place)


def test_the_next_folder_is_taken_where_one_is_not_fit(place: Path) -> None:
    missing, long = place.with_name("missing") / "mbactor", place.with_name("l" * 100)
    server, path = listen("shop", FILE, [missing, long, place])
    with closing(server):
        assert path.parent == place
    with pytest.raises(Unavailable) as caught:
        listen("shop", FILE, [missing, long])
    assert "No such file or directory" in str(caught.value)
    assert "too long" in str(caught.value)


def test_a_folder_that_cannot_be_looked_into_is_told_where_nothing_is_found_elsewhere(place: Path) -> None:
    place.write_text("no folder")
    with pytest.raises(NotPrivate, match="Not a directory"):
        running(FILE, [place.with_name("missing"), place / "mbactor"])
    other = place.with_name("other")
    server, path = listen("shop", FILE, [place / "mbactor", other])
    with closing(server):
        assert [one.path for one in running(FILE, [place / "mbactor", other])] == [path]


def test_what_a_dead_process_left_is_removed_and_what_lives_stays(place: Path) -> None:
    place.mkdir(0o700)
    mine, other = (place / name_of("shop", file, NOBODY) for file in (FILE, Path("other.yaml")))
    abandon(mine)
    abandon(other)
    (place / "notes.txt").write_text("not a socket")
    assert not answers(mine)
    server, path = listen("shop", FILE, [place])
    with closing(server):
        assert sorted(one.name for one in place.iterdir()) == sorted(["notes.txt", path.name])
        abandon(mine)
        assert [one.path for one in running(FILE, [place])] == [path]
        assert not mine.exists()


def test_a_socket_that_refuses_is_kept_while_its_process_may_be_about_to_listen(place: Path) -> None:
    place.mkdir(0o700)
    path = place / name_of("shop", FILE, os.getpid())
    abandon(path)
    assert running(FILE, [place]) == []
    assert path.exists()
    long_ago = path.stat().st_mtime - 60
    os.utime(path, (long_ago, long_ago))
    assert running(FILE, [place]) == []
    assert not path.exists()


def test_a_socket_that_answers_is_not_replaced(place: Path) -> None:
    server, path = listen("shop", FILE, [place])
    with closing(server):
        with pytest.raises(Unavailable, match="in use"):
            listen("shop", FILE, [place])
        assert answers(path)


def test_a_process_that_accepts_nobody_is_alive(place: Path) -> None:
    server, path = listen("shop", FILE, [place])
    waiting = []
    with closing(server):
        for _ in range(64):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(path))
            waiting.append(client)
        assert answers(path)
        remove_stale(place)
        assert path.exists()
    for client in waiting:
        client.close()


def test_a_file_is_the_same_by_whichever_way_it_is_named(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("")
    (tmp_path / "link.yaml").symlink_to(file)
    server, path = listen("shop", file, [place])
    with closing(server):
        for named in (tmp_path / "link.yaml", tmp_path / ".." / tmp_path.name / "shop.yaml"):
            assert [one.path for one in running(named, [place])] == [path]
        assert running(tmp_path / "other.yaml", [place]) == []


def test_any_name_makes_a_short_file_name() -> None:
    name = name_of("../ärger " + "x" * 300, FILE, 17)
    assert "/" not in name
    assert name.isascii()
    assert len(name) < 60
    assert name_of("///", FILE, 17).startswith("system-")
