"""Mermaid itself draws what we write: the real library, in a headless Chromium. Skipped where either is absent.

`npm install --no-save mermaid` in the root of the repository, or its `mermaid.min.js` in the variable `MERMAID_JS`.
"""

from __future__ import annotations

import datetime as dt
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import StepRecord, Subflow
from mbactor.foreman.render import history_mermaid
from tests.process import ROOT

LIBRARY = Path(os.environ.get("MERMAID_JS", ROOT / "node_modules/mermaid/dist/mermaid.min.js"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HARD = [
    "1. first", "- dash", "*bold*", "__init__", "~~s~~", "`c`", "end", "a#35;b", "&lt;x", "<script>", "%%{init: {}}%%",
    "a;b", "$$x^2$$", "# head", "fa:fa-car", "[link](u)", "+ plus", "> quote", "---", "subgraph", "click", "a\\nb", "'\"",
    "&amp;", "é", "a || b",
]  # fmt: skip
PAGE = """<html><head><meta charset="utf-8"></head><body><pre id="drawn"></pre><script src="{library}"></script><script>
mermaid.initialize({{startOnLoad: false}});
(async () => {{
    const drawn = [];
    for (const [index, text] of {texts}.entries()) {{
        try {{
            const box = document.createElement("div");
            box.innerHTML = (await mermaid.render("chart" + index, text)).svg;
            const all = kind => [...box.querySelectorAll(kind)].map(found => found.textContent);
            drawn.push({{nodes: all("g.node"), edges: all("g.edgeLabel"), clusters: all("g.cluster"), title: all(".flowchartTitleText"),
                paths: box.querySelectorAll("path.flowchart-link").length}});
        }} catch (error) {{ drawn.push({{error: String(error)}}); }}
    }}
    document.getElementById("drawn").textContent = JSON.stringify(drawn);
}})();
</script></body></html>"""


def render(texts: list[str], folder: Path) -> list[dict[str, Any]]:
    """What Mermaid makes of each text: the labels of its nodes and edges, as a reader sees them."""
    page = folder / "page.html"
    written = json.dumps(texts).replace("<", "\\u003c")
    page.write_text(PAGE.format(library=LIBRARY.as_uri(), texts=written), encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = re.search(r'<pre id="drawn">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return list(json.loads(html.unescape(found[1])))


def hard_names() -> Graph:
    g = Graph("""T "q" 'x' #35; \\ : {a} %%c 1.""")
    for number, name in enumerate(HARD):
        g.set_endpoint(f"n{number}", name)
        g.add_transition_when(name, END, name)
    return g


def every_kind() -> Graph:
    g = Graph("Every kind")
    g.add_transition_for_each("split", "branch", for_each="items")
    g.add_transition("branch", "join")
    g.set_fan_in("join")
    g.add_transition_switch("join", "pay", "total > 10 && name =~ '^a|b$'")
    g.add_transition_switch("join", END, "true")
    g.add_transition_on_error("pay", "repair")
    g.add_transition_on_timeout("pay", "repair")
    g.add_transition_goto("pay", "pay")
    g.add_transition("pay", END)
    g.add_subgraph("repair", "https://x.example/w")
    g.add_transition("repair", END)
    return g


def whole_history(begin: dt.datetime) -> list[StepRecord]:
    """A fan-out whose one branch called a flow, and a fan-in a day later."""

    def step(node: str, start: float, before: str | None = None, **more: Any) -> StepRecord:
        at = begin + dt.timedelta(seconds=start)
        return StepRecord(step_key=node, node=node, status="completed", created_at=at, started_at=at,
                          ended_at=at + dt.timedelta(seconds=1), predecessor=before, **more)  # fmt: skip

    inner = Subflow(flow_key="c", workflow_name="Inner <b>", steps=[step("one", 2), step("two", 3.5, "one")])
    return [
        step("split", 0),
        step("left", 1, "split", successor="join"),
        step("right", 1, "split", successor="join"),
        step("call", 1, "split", successor="join", subflow=inner),
        step("join", 86402, "right"),
    ]


@pytest.mark.skipif(not LIBRARY.exists() or CHROMIUM is None, reason="needs mermaid.min.js and a Chromium")
def test_mermaid_draws_graphs_and_histories_with_every_label_as_it_was_written(tmp_path: Path) -> None:
    at = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    steps = [StepRecord(step_key=f"k{n}", node=name, status="completed", created_at=at) for n, name in enumerate(HARD)]
    texts = [
        hard_names().mermaid(link="n"),
        every_kind().mermaid(direction="TD"),
        history_mermaid(steps, title="a: {b}"),
        history_mermaid(whole_history(at), link="step"),
    ]
    hard, kinds, history, whole = render(texts, tmp_path)
    assert "error" not in hard, hard
    assert set(HARD) <= set(hard["nodes"])
    assert set(HARD) <= set(hard["edges"])
    assert hard["title"] == [hard_names().name]
    assert "error" not in kinds, kinds
    assert {"split", "branch", "reduce", "join", "switch", "pay", "repair"} <= set(kinds["nodes"])
    labels = {"for each", "total > 10 && name =~ '^a|b$'", "default", "onError | onTimeout", "goto"}
    assert labels <= set(kinds["edges"])
    assert kinds["paths"] == 11
    assert "error" not in history, history
    assert history["title"] == ["a: {b}"]
    assert set(HARD) <= {label.split("\n")[0] for label in history["nodes"]}
    assert "error" not in whole, whole
    assert {"split", "left", "right", "call", "join"} <= {re.split(r"\n|\d", label)[0] for label in whole["nodes"]}
    assert "Inner <b>" in whole["clusters"]
    assert whole["paths"] == 10
    assert {"500ms", "1d 0h"} <= set(whole["edges"])
