"""What the page of an explanation adds to the looks of a data card."""

STYLE = """
.strip { margin: .6rem 0; padding: .7rem .8rem; border: 1px solid var(--line); border-radius: .4rem; max-height: 24rem;
  overflow-y: auto; font: 14px/1.9 ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.token { color: inherit; text-decoration: none; border-radius: .2rem; padding: .1rem 0;
  border-right: 1px solid var(--line); }
.token:focus-visible, .head:focus-visible, .scroll:focus-visible, .strip:focus-visible { outline: 2px solid var(--fill);
  outline-offset: 1px; }
.strip.loss .token, .cells td { background: color-mix(in srgb, var(--fill) calc(var(--p, 0) * 70%), transparent); }
.token.raises { background: color-mix(in srgb, var(--lost) calc(var(--p, 0) * 75%), transparent); }
.token.lowers { background: color-mix(in srgb, var(--other) calc(var(--p, 0) * 75%), transparent); }
.token.target { outline: 2px solid var(--ink); outline-offset: 1px; }
.key { display: inline-block; width: .9rem; height: .9rem; margin: 0 .35rem 0 0; border-radius: .2rem;
  vertical-align: -.1rem; }
.key.loss { background: color-mix(in srgb, var(--fill) 70%, transparent); }
.key.raises { background: color-mix(in srgb, var(--lost) 75%, transparent); }
.key.lowers { background: color-mix(in srgb, var(--other) 75%, transparent); }
.cells { width: auto; border-collapse: separate; border-spacing: 1px; font-size: .8rem; }
.cells th, .cells td { padding: .12rem .35rem; border: 0; white-space: pre; max-width: 8rem; overflow: hidden;
  text-overflow: ellipsis; font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace; }
.cells th:first-child { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: right;
  max-width: none; }
.cells th:last-child, .cells td:last-child { padding-right: .35rem; }
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem;
  margin: .5rem 0 1rem; }
.head { margin: 0; min-width: 0; }
.head img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; border: 1px solid var(--line);
  border-radius: .3rem; background: var(--tile); }
.head figcaption { padding-top: .25rem; font-size: .78rem; line-height: 1.35; color: var(--soft); }
.head { cursor: zoom-in; }
.head:focus { grid-column: 1 / -1; cursor: default; }
.head:focus img { width: min(100%, 38rem); }
tr:target td { background: color-mix(in srgb, var(--fill) 25%, transparent); }
details { margin: .3rem 0; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 5rem;
  font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace; }
"""
