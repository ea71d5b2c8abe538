"""How the page of a history looks, by light and by dark."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2530; --dim: #66717e; --line: #e3e7ec; --raised: #f6f8fa;
  --completed: #2e9e5b; --running: #2b7de9; --pending: #9aa5b1; --created: #c3cad2; --failed: #d93a3a;
  --cancelled: #7d8a97; --interrupted: #e0a021; --wait: #b7c0ca; --cut: #eef1f4; }
@media (prefers-color-scheme: dark) { :root { --paper: #14191f; --ink: #dde4ec; --dim: #8b98a7; --line: #2a323c;
  --raised: #1b222a; --completed: #3fb871; --running: #58a0f7; --pending: #6d7986; --created: #4b5663;
  --failed: #f06464; --cancelled: #8a97a5; --interrupted: #efbd4f; --wait: #4d5966; --cut: #1d242c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 28px 64px; max-width: 1280px; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { margin: 0 0 2px; font-size: 22px; font-weight: 650; display: flex; gap: 12px; align-items: center; flex-wrap: wrap;
  overflow-wrap: anywhere; }
h2 { margin: 32px 0 10px; font-size: 15px; font-weight: 650; }
code, .mono { font: 12.5px/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.dim { color: var(--dim); }
.badge { font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 999px; color: #fff;
  background: var(--own); }
.completed { --own: var(--completed); } .running { --own: var(--running); } .pending { --own: var(--pending); }
.created { --own: var(--created); } .failed { --own: var(--failed); } .cancelled { --own: var(--cancelled); }
.interrupted { --own: var(--interrupted); }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 14px 0 0; }
.facts div { min-width: 0; } .facts dt { color: var(--dim); font-size: 12px; } .facts dd { margin: 0; }
.error { margin: 16px 0 0; padding: 10px 14px; border-left: 4px solid var(--failed); background: var(--raised);
  border-radius: 4px; overflow-wrap: anywhere; white-space: pre-wrap; }
.timeline { position: relative; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.row { display: grid; grid-template-columns: minmax(150px, 26%) 1fr 84px; align-items: center; min-height: 26px;
  border-top: 1px solid var(--line); padding: 0 10px; }
.row:hover { background: var(--raised); } .axis { border-top: 0; min-height: 24px; color: var(--dim); font-size: 11px; }
.axis:hover { background: none; }
.label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; padding: 2px 10px 2px calc(var(--in) * 18px);
  color: inherit; text-decoration: none; }
.label small { color: var(--dim); } a.label:hover { text-decoration: underline; }
.took { text-align: right; color: var(--dim); font-variant-numeric: tabular-nums; white-space: nowrap; }
.track { position: relative; align-self: stretch; min-height: 26px; }
.axis .track { min-height: 24px; }
.tick { position: absolute; top: 0; bottom: 0; border-left: 1px solid var(--line); }
.axis .tick span { position: absolute; left: 4px; top: 4px; white-space: nowrap; }
.cut { position: absolute; top: 0; bottom: 0; background: var(--cut);
  border: dashed var(--line); border-width: 0 1px; }
.axis .cut span { position: absolute; left: 0; right: 0; top: 4px; text-align: center; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.bar, .wait { position: absolute; top: 50%; min-width: 3px; border-radius: 3px; }
.bar { height: 14px; margin-top: -7px; background: var(--own); }
.bar.hollow { background: none; border: 2px solid var(--own); opacity: .7; }
.bar.running { border-right: 3px dotted var(--paper); }
.bar.thin.failed { opacity: 1; z-index: 1; } .label .failed { color: var(--failed); }
.bar.thin { opacity: .55; height: 10px; margin-top: -5px; min-width: 2px; border-radius: 1px; }
.wait { height: 2px; margin-top: -1px; background: var(--wait); min-width: 0; }
details > summary { list-style: none; cursor: pointer; } details > summary::-webkit-details-marker { display: none; }
summary .label::before { content: "\\25B8"; color: var(--dim); display: inline-block; width: 14px; }
details[open] > summary .label::before { content: "\\25BE"; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 2px 0; color: var(--dim); font-size: 12px; }
.legend i { display: inline-block; width: 14px; height: 10px; border-radius: 2px; background: var(--own);
  margin-right: 6px; }
.legend .w { height: 2px; background: var(--wait); vertical-align: 3px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: 12px; background: var(--raised); }
th, td { padding: 6px 12px; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child th { border-top: 0; }
td.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; } th.num { text-align: right; }
td .state { color: var(--own); font-weight: 600; white-space: nowrap; }
td.node { padding-left: calc(12px + var(--in) * 16px); min-width: 140px; max-width: 380px; }
td.node summary { font-weight: 550; overflow-wrap: anywhere; } td.node summary:hover { text-decoration: underline; }
td.node code { display: block; color: var(--dim); font-size: 11.5px; }
td.more { min-width: 220px; overflow-wrap: anywhere; } td.more div + div { margin-top: 4px; }
td.more > .fault { color: var(--failed); white-space: pre-wrap; }
td.more summary { color: var(--dim); } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0;
  font: 12px/1.4 ui-monospace, Menlo, Consolas, monospace; }
tr:target { outline: 2px solid var(--running); outline-offset: -2px; }
footer { margin-top: 28px; color: var(--dim); font-size: 12px; }
@media (max-width: 640px) { body { padding: 14px; } .row { grid-template-columns: 38% 1fr 64px; padding: 0 6px; } }
@media print { details > *:not(summary) { display: block; } .row { break-inside: avoid; } }
"""
