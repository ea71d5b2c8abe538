"""Fixtures of the tests of supervision."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.topology_parts import MODULE


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "shop_for_test.py").write_text(MODULE)
    (tmp_path / "broken_for_test.py").write_text("import json\nraise ValueError('at import')\n")
    (tmp_path / "deep_for_test.py").write_text("import json\n\njson.loads('{')\n")
    (tmp_path / "half_for_test.py").write_text("import not_there\n")
    (tmp_path / "plain.yaml").write_text("text\n")
    (tmp_path / "broken.yaml").write_text("[\n")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    # An installed package of a user, with two short kinds.
    info = tmp_path / "shop_for_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-for-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mbactor.children]\nsale = shop_for_test:Orders\nlost = nowhere:X\n")
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in ("shop_for_test", "broken_for_test"):
        sys.modules.pop(name, None)
