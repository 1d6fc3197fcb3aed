"""What the page of a run adds to the looks of all pages."""

STYLE = """
:root { --c0: #2f6db5; --c1: #d1662a; --c2: #2f8f5b; --c3: #8a5bc0; --c4: #b8860b; --c5: #148aa3; --c6: #c0497f;
  --c7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --c0: #6ea8ec; --c1: #f0935a; --c2: #62c08e; --c3: #b692ea; --c4: #dcb04a;
  --c5: #4fc0d8; --c6: #ea82ae; --c7: #a2abba; } }
body { max-width: 84rem; }
.state { display: inline-block; margin-left: .5rem; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem;
  font-weight: 600; vertical-align: .2rem; border: 1px solid currentColor; color: var(--soft); }
.state.good { color: var(--c2); } .state.bad { color: var(--lost); } .state.live { color: var(--c0); }
.cards .state { justify-self: start; margin-left: 0; }
.controls { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap; gap: .5rem 1.25rem;
  align-items: center; margin: 1rem 0 .5rem; padding: .55rem 0; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.controls > div { display: flex; align-items: center; gap: .4rem; }
.controls span.soft { font-size: .85rem; }
button { font: inherit; font-size: .85rem; padding: .2rem .65rem; color: var(--ink); background: var(--tile);
  border: 1px solid var(--line); border-radius: .4rem; cursor: pointer; }
button:hover:enabled { border-color: var(--soft); }
button:disabled { opacity: .45; cursor: default; }
button[data-axis][aria-pressed=true], button.log[aria-pressed=true] { background: var(--fill);
  border-color: var(--fill); color: var(--paper); }
button:focus-visible, canvas:focus-visible, input:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--fill); outline-offset: 2px; }
input[type=range] { width: 8rem; accent-color: var(--fill); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem; }
.chart { margin: 0; padding: .6rem .7rem .5rem; border: 1px solid var(--line); border-radius: .5rem; min-width: 0; }
.chart.first { grid-column: 1 / -1; }
.chart figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .5rem; font-weight: 600;
  overflow-wrap: anywhere; }
.chart figcaption .soft { font-weight: 400; font-size: .82rem; flex: 1 0 auto; max-width: 100%; }
.chart figcaption button { flex: none; margin-left: auto; padding: .05rem .5rem; font-size: .75rem; }
.chart canvas { display: block; width: 100%; height: 12.5rem; touch-action: pan-y; cursor: crosshair; }
.chart.first canvas { height: 22rem; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem .4rem; max-height: 5.2rem; overflow-y: auto; }
.legend .key { padding: 0 .4rem; border: 0; background: none; font-size: .8rem; overflow-wrap: anywhere;
  text-align: left; }
.legend .key::before { content: ""; display: inline-block; width: .7rem; height: .25rem; margin-right: .35rem;
  border-radius: .1rem; background: currentColor; vertical-align: .2rem; }
.legend .key[aria-pressed=false] { opacity: .4; text-decoration: line-through; }
.c0::before { color: var(--c0); } .c1::before { color: var(--c1); } .c2::before { color: var(--c2); }
.c3::before { color: var(--c3); } .c4::before { color: var(--c4); } .c5::before { color: var(--c5); }
.c6::before { color: var(--c6); } .c7::before { color: var(--c7); }
.bubble { position: absolute; z-index: 10; max-width: min(26rem, 92vw); padding: .4rem .6rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: .4rem; box-shadow: 0 2px 10px rgb(0 0 0 / 20%); font-size: .8rem;
  font-variant-numeric: tabular-nums; pointer-events: none; white-space: pre-wrap; overflow-wrap: anywhere; }
.bubble i { display: inline-block; width: .6rem; height: .6rem; margin-right: .4rem; border-radius: .15rem; }
.life { position: relative; height: 1.6rem; margin: .8rem 0 .3rem; background: var(--tile); border-radius: .3rem;
  overflow: hidden; }
.life i { position: absolute; top: 0; bottom: 0; min-width: 3px; border-right: 2px solid var(--paper);
  background: var(--fill); opacity: .85; }
.life i.cut { border-right-color: var(--lost); }
.ends { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); }
.spike { margin: 1rem 0 1.4rem; }
.spike h3 { margin-bottom: .2rem; }
.spike pre { max-height: none; }
.snippet { max-width: 34rem; font: 12px/1.45 ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  overflow-wrap: anywhere; }
td.changed { color: var(--lost); }
.reason { min-width: 14rem; overflow-wrap: anywhere; }
.key-name { overflow-wrap: anywhere; }
noscript p { padding: .8rem; border: 1px solid var(--lost); border-radius: .4rem; }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } .controls { position: static; } .chart.first canvas {
  height: 15rem; } .tiles { grid-template-columns: repeat(2, 1fr); gap: .5rem; } .tile { padding: .5rem .6rem; }
  .tile b { font-size: 1.1rem; overflow-wrap: anywhere; } .ends { font-size: .72rem; } }
@media print { .controls { display: none; } .chart { break-inside: avoid; } }
"""
