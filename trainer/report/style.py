"""How pages look, in light and dark; no font, picture or script is fetched."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2330; --soft: #5a6478; --line: #dde2ea; --tile: #f5f7fa;
  --fill: #3b6fb6; --lost: #d9694f; --other: #6f9a5b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --ink: #e4e8ef; --soft: #9aa5b8; --line: #2d343f;
  --tile: #1c2129; --fill: #6ea3e8; --lost: #e2816a; --other: #8dbb78; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); font-size: 1.15rem; }
h3 { margin: 1.2rem 0 .4rem; font-size: 1rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { padding: .7rem .9rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--tile); }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tile span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-size: .85rem; font-weight: 600; white-space: nowrap; }
td { overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.rule { padding-left: 1.25rem; color: var(--soft); }
.wide { display: inline-block; min-width: 9rem; overflow-wrap: anywhere; }
.bar { display: flex; width: 100%; min-width: 7rem; height: .8rem; margin-top: .35rem; background: var(--tile);
  border-radius: .2rem; overflow: hidden; }
.fill { background: var(--fill); min-width: 1px; }
.fill.other { background: var(--other); }
.fill.lost { background: var(--lost); }
.columns { display: flex; align-items: stretch; gap: 3px; height: 13rem; margin: .8rem 0 .3rem; }
.column { flex: 1 1 0; min-width: 0; display: flex; flex-direction: column; justify-content: flex-end;
  text-align: center; font-size: .75rem; color: var(--soft); }
.column i { display: block; background: var(--fill); border-radius: .2rem .2rem 0 0; }
.column b { font-weight: normal; padding-top: .2rem; border-top: 1px solid var(--line); white-space: nowrap; }
@media (max-width: 40rem) { .column em { display: none; } .column:nth-child(even) b { color: transparent; } }
.column em { font-style: normal; white-space: nowrap; }
pre { margin: .3rem 0 0; padding: .7rem .8rem; border: 1px solid var(--line); border-radius: .4rem;
  background: var(--tile); font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 20rem; overflow-y: auto; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.sample { margin: .9rem 0; }
.sample .about { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--soft); }
@media (max-width: 40rem) { .cards thead { display: none; }
  .cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .cards td { display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .6rem; padding: .1rem 0; border: 0;
    overflow-wrap: anywhere; }
  .cards td::before { content: attr(data-name); color: var(--soft); font-size: .85rem; }
  .cards td:empty { display: none; }
  .cards .number { text-align: left; white-space: normal; } .cards td * { min-width: 0; } }
@media print { pre { max-height: none; } }
"""
