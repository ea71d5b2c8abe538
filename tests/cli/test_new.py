"""`mbactor new` makes a service that passes its own tests, is right by every check, and runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.process import PATIENCE, ROOT, command, serving


def tool(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_service_is_right_by_its_tests_and_every_check_and_does_what_is_printed(tmp_path: Path) -> None:
    done = command("new", "tea_shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "tea_shop"
    files = ["tea_shop.py", "test_tea_shop.py", "topology.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert re.findall(r"^tea_shop/(\S+)", done.stdout, re.MULTILINE) == files
    assert "3 passed" in tool(folder, "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    tool(folder, "mypy", "--strict", ".")
    tool(folder, "ruff", "format", "--check", "--isolated", ".")
    tool(folder, "ruff", "check", "--isolated", "--select", "E,F,I,B,UP,RUF", ".")
    assert "ok, tea_shop: 3 actors" in command("check", "--strict", "topology.yaml", cwd=folder).stdout
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        variables = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": runtime}
        with serving(folder / "topology.yaml", folder, **variables) as served:
            url = served.url
            served.until("Ctrl-C stops it")
            [call] = re.findall(r"^mbactor (call .*)$", done.stdout, re.MULTILINE)
            called = command(*shlex.split(call), cwd=folder, **variables)
            assert called.stdout == '"Hello Ada, you are number 1"\n', called.stderr
            [curl] = re.findall(r"^curl .*$", done.stdout, re.MULTILINE)
            _, _, address, _, body = shlex.split(curl)
            answer = httpx.post(address.replace("localhost:8080", url), content=body, timeout=PATIENCE)
            assert answer.json()["state"]["told"] == "2 of tea are yours"


@pytest.mark.parametrize("name", ["Shop", "class", "a-b", "a__b", "_a", "a_", "1a", "ä"])
def test_a_name_that_no_module_can_have_is_refused(tmp_path: Path, name: str) -> None:
    done = command("new", name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name!r} given, the name of a module expected" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "mbactor"])
def test_a_name_that_would_hide_a_module_is_refused(tmp_path: Path, name: str) -> None:
    done = command("new", name, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{name!r} given, but there is a module of that name, which it would hide" in done.stderr


@pytest.mark.parametrize("name", ["actor", "actor_system", "flow_outcome", "flows", "foreman", "graph"])
def test_a_name_whose_class_would_hide_one_that_it_uses_is_refused(tmp_path: Path, name: str) -> None:
    done = command("new", name, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{name!r} given, but its class would hide the " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_as_it_is_and_nothing_half_done_stays_behind(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    done = command("new", "shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: shop is there already; nothing was written\n")
    done = command("new", "nowhere/shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: nowhere/shop cannot be written: No such file or directory\n")
    (tmp_path / "file").touch()
    done = command("new", "file/shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: file/shop cannot be written: Not a directory\n")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["file", "shop"]


def test_a_folder_of_another_place_is_named_by_its_last_part(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    done = command("new", "services/shop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cd services/shop\n" in done.stdout
    assert (tmp_path / "services" / "shop" / "shop.py").exists()


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_who_may_look_into_the_folder_is_what_the_umask_says(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        command("new", "shop", cwd=tmp_path)
    finally:
        os.umask(old)
    folder = tmp_path / "shop"
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "shop.py")]
    assert modes == [0o777 & ~mask, 0o666 & ~mask]


def test_what_is_printed_for_the_shell_can_be_typed_there(tmp_path: Path) -> None:
    (tmp_path / "my services").mkdir()
    done = command("new", "my services/shop", cwd=tmp_path)
    assert "\ncd 'my services/shop'\n" in done.stdout
