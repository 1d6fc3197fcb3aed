function scales(chart) {
  const from = view.from ?? view.low, to = view.to ?? view.high;
  let low = Infinity, high = -Infinity;
  for (const line of chart.lines) {
    if (line.hidden) continue;
    const raw = line.series.v;
    for (let i = Math.max(0, below(line.x, from) - 1); i < raw.length && line.x[i] <= to; i++) {
      if (line.x[i] < from || (chart.log && raw[i] <= 0)) continue;
      if (raw[i] < low) low = raw[i];
      if (raw[i] > high) high = raw[i];
    }
  }
  if (low === Infinity) { low = chart.log ? 0.1 : 0; high = 1; }
  if (low === high) { const by = chart.log ? 1.2 : Math.abs(low) * 0.1 || 1; low = chart.log ? low / by : low - by; high = chart.log ? high * by : high + by; }
  const flat = (v) => (chart.log ? Math.log(v) : v), room = (flat(high) - flat(low)) * 0.05;
  const bottom = flat(low) - room, top = flat(high) + room, wide = chart.width - LEFT - RIGHT, tall = chart.height - TOP - BOTTOM;
  return {
    from, to, low: chart.log ? Math.exp(bottom) : bottom, high: chart.log ? Math.exp(top) : top,
    x: (at) => LEFT + ((at - from) / (to - from)) * wide,
    back: (px) => from + ((px - LEFT) / wide) * (to - from),
    y: (v) => TOP + (1 - (flat(v) - bottom) / (top - bottom)) * tall,
  };
}
function path(pen, scale, xs, ys, log) {
  const first = Math.max(0, below(xs, scale.from) - 1);
  let open = false;
  pen.beginPath();
  for (let i = first; i < xs.length; i++) {
    if (!log || ys[i] > 0) { const x = scale.x(xs[i]), y = scale.y(ys[i]); if (open) pen.lineTo(x, y); else pen.moveTo(x, y); open = true; } else open = false;
    if (xs[i] > scale.to) break;
  }
  pen.stroke();
}
function prepare(chart) { // a clean canvas of the right size; none while it isn't laid out
  const box = chart.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  if (!box.width) return null;
  chart.width = box.width; chart.height = box.height; chart.dirty = false;
  if (chart.canvas.width !== Math.round(box.width * ratio)) chart.canvas.width = Math.round(box.width * ratio);
  if (chart.canvas.height !== Math.round(box.height * ratio)) chart.canvas.height = Math.round(box.height * ratio);
  const pen = chart.canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, box.width, box.height);
  pen.font = "11px system-ui, sans-serif"; pen.lineWidth = 1; pen.lineJoin = "round";
  return pen;
}
function across(chart, pen, left, right, bottom) { // ticks of the axis below
  pen.textAlign = "center"; pen.textBaseline = "top"; pen.fillStyle = colours.soft;
  const { scale } = chart, wanted = Math.max(2, (right - left) / (view.axis === "time" ? 70 : 55));
  const found = view.axis === "time" ? timeTicks(scale.from, scale.to, wanted) : ticks(scale.from, scale.to, wanted);
  for (const at of found.found) { const x = scale.x(at); if (x > left - 1 && x < right + 1) pen.fillText(AXES[view.axis].show(at), Math.min(x, right - 8), bottom + 7); }
}
function selection(chart, pen, bottom) { // what is dragged across
  const [a, b] = chart.drag;
  pen.globalAlpha = 0.15; pen.fillStyle = colours.ink; pen.fillRect(Math.min(a, b), TOP, Math.abs(b - a), bottom - TOP); pen.globalAlpha = 1;
}
function draw(chart) {
  if (chart.map) { drawHeat(chart); return; }
  const pen = prepare(chart);
  if (!pen) return;
  const scale = (chart.scale = scales(chart));
  const bottom = chart.height - BOTTOM, right = chart.width - RIGHT;
  pen.textAlign = "right"; pen.textBaseline = "middle";
  const vertical = chart.log ? { found: logTicks(scale.low, scale.high), step: scale.low } : ticks(scale.low, scale.high, Math.max(2, (bottom - TOP) / 38));
  for (const at of vertical.found) {
    const y = Math.round(scale.y(at)) + 0.5;
    pen.strokeStyle = colours.line; pen.beginPath(); pen.moveTo(LEFT, y); pen.lineTo(right, y); pen.stroke();
    pen.fillStyle = colours.soft; pen.fillText(tick(at, chart.unit, chart.log ? Math.abs(at) : vertical.step), LEFT - 7, y);
  }
  across(chart, pen, LEFT, right, bottom);
  pen.save();
  pen.beginPath(); pen.rect(LEFT, TOP - 6, right - LEFT, bottom - TOP + 8); pen.clip();
  marks(chart, pen, scale, bottom);
  for (const line of chart.lines) {
    if (line.hidden || !line.x.length) continue;
    pen.strokeStyle = pen.fillStyle = colours.lines[line.colour];
    const thinned = line.series.width > 1, both = thinned || view.smoothing > 0;
    if (both) { pen.globalAlpha = 0.32; pen.lineWidth = 1; path(pen, scale, line.x, line.series.v, chart.log); pen.globalAlpha = 1; }
    pen.lineWidth = 1.6;
    path(pen, scale, line.middleX, line.middle, chart.log);
    if (line.x.length <= DOTS && !(view.smoothing > 0))
      for (let i = 0; i < line.x.length; i++) if (!chart.log || line.series.v[i] > 0) {
        pen.beginPath(); pen.arc(scale.x(line.x[i]), scale.y(line.series.v[i]), line.x.length > 40 ? 1.5 : 2.4, 0, 7); pen.fill();
      }
  }
  spikes(chart, pen, scale);
  if (chart.drag) selection(chart, pen, bottom);
  if (chart.at !== null) cross(chart, pen, scale, bottom);
  pen.restore();
}
function markAt(run, mark) {
  if (view.axis === "time") return mark.time;
  return along(run, [mark.step], view.axis)[0];
}
function runsOf(chart) { // whose lines are shown
  return chart.map ? [chart.run] : [...new Set(chart.lines.filter((line) => !line.hidden).map((line) => line.run))];
}
function marks(chart, pen, scale, bottom) { // restarts, and bad steps that were skipped or rewound
  for (const run of runsOf(chart)) for (const [step] of run.bad) {
    const x = Math.round(scale.x(along(run, [step], view.axis)[0])) + 0.5;
    pen.strokeStyle = colours.lines[4]; pen.lineWidth = 1; pen.globalAlpha = 0.9; pen.setLineDash([1, 2]);
    pen.beginPath(); pen.moveTo(x, TOP); pen.lineTo(x, bottom); pen.stroke(); pen.setLineDash([]); pen.globalAlpha = 1;
  }
  for (const run of runsOf(chart)) for (const mark of run.marks) {
    const x = Math.round(scale.x(markAt(run, mark))) + 0.5;
    pen.strokeStyle = pen.fillStyle = colours.lost; pen.globalAlpha = 0.8; pen.setLineDash([3, 4]);
    pen.beginPath(); pen.moveTo(x, TOP); pen.lineTo(x, bottom); pen.stroke(); pen.setLineDash([]);
    pen.beginPath(); pen.moveTo(x - 4, TOP - 5); pen.lineTo(x + 4, TOP - 5); pen.lineTo(x, TOP + 2); pen.fill(); pen.globalAlpha = 1;
  }
}
function spikes(chart, pen, scale) {
  for (const line of chart.lines) if (line.metric === "train/loss" && !line.hidden) {
    const xs = along(line.run, line.run.spikes.map((spike) => spike[0]), view.axis);
    line.run.spikes.forEach(([, loss], i) => {
      pen.strokeStyle = colours.lost; pen.lineWidth = 1.8; pen.beginPath(); pen.arc(scale.x(xs[i]), scale.y(loss), 5, 0, 7); pen.stroke();
    });
  }
}
function nearest(line, x) {
  const place = below(line.x, x);
  const before = Math.max(0, place - 1), after = Math.min(line.x.length - 1, place);
  return Math.abs(line.x[before] - x) <= Math.abs(line.x[after] - x) ? before : after;
}
function cross(chart, pen, scale, bottom) {
  const x = scale.x(chart.at);
  pen.strokeStyle = colours.soft; pen.lineWidth = 1; pen.beginPath(); pen.moveTo(x, TOP); pen.lineTo(x, bottom); pen.stroke();
  for (const line of chart.lines) {
    if (line.hidden || !line.x.length) continue;
    const i = nearest(line, chart.at), v = line.series.v[i];
    if (chart.log && v <= 0) continue;
    pen.fillStyle = colours.lines[line.colour]; pen.strokeStyle = colours.paper; pen.lineWidth = 1.5;
    pen.beginPath(); pen.arc(scale.x(line.x[i]), scale.y(v), 4, 0, 7); pen.fill(); pen.stroke();
  }
}

const bubble = document.createElement("div");
bubble.className = "bubble"; bubble.hidden = true; bubble.setAttribute("role", "status");
document.body.append(bubble);
function line(text, colour) {
  const row = document.createElement("div");
  if (colour) { const key = document.createElement("i"); key.style.background = colour; row.append(key); }
  row.append(text);
  return row;
}
function place(chart, lines, x, y) { // the bubble beside a point of a chart
  bubble.replaceChildren(...lines);
  bubble.hidden = false;
  const box = chart.canvas.getBoundingClientRect(), at = box.left + x;
  const wide = bubble.offsetWidth, room = document.documentElement.clientWidth;
  bubble.style.left = `${Math.max(4, Math.min(room - wide - 4, at + 14 + wide > room ? at - wide - 14 : at + 14)) + window.scrollX}px`;
  bubble.style.top = `${box.top + y + window.scrollY}px`;
}
function tell(chart) {
  const rows = [], scale = chart.scale;
  const shown = chart.lines.filter((line) => !line.hidden && line.x.length);
  const near = shown.map((curve) => ({ curve, i: nearest(curve, chart.at) }));
  if (view.axis !== "step") rows.push(line(AXES[view.axis].exact(chart.at)));
  for (const { curve, i } of near.slice(0, 14)) {
    const text = `${curve.label}  ${value(curve.series.v[i], chart.unit)}  at step ${Math.round(curve.series.s[i]).toLocaleString("en")}`;
    rows.push(line(text, colours.lines[curve.colour]));
    if (curve.series.width > 1) {
      const m = Math.max(0, Math.min(curve.middleX.length - 1, below(curve.middleX, curve.x[i]) - 1));
      rows.push(line(`     mean of ${curve.series.width.toLocaleString("en")} rows ${value(curve.series.mv[m], chart.unit)}`));
    }
  }
  if (near.length > 14) rows.push(line(`and ${near.length - 14} more`));
  const isNear = (x) => Math.abs(scale.x(x) - scale.x(chart.at)) < 6;
  for (const run of runsOf(chart)) {
    for (const mark of run.marks) if (isNear(markAt(run, mark))) rows.push(line(mark.text, colours.lost));
    for (const [step, text] of run.bad) if (isNear(along(run, [step], view.axis)[0])) rows.push(line(text, colours.lines[4]));
  }
  place(chart, rows, scale.x(chart.at), TOP);
}
function point(chart, px, py) {
  if (chart.map) { pointHeat(chart, px, py); return; }
  if (!chart.scale) return;
  chart.at = px === null ? null : Math.max(chart.scale.from, Math.min(chart.scale.to, chart.scale.back(px)));
  draw(chart);
  if (chart.at === null) bubble.hidden = true; else tell(chart);
}
function zoom(from, to) {
  view.from = from; view.to = to;
  const reset = document.getElementById("reset"); // not there where there are heat maps alone
  if (reset) reset.disabled = from === null;
  redraw();
}
function listen(chart) {
  const { canvas } = chart;
  const px = (event) => event.clientX - canvas.getBoundingClientRect().left;
  const py = (event) => event.clientY - canvas.getBoundingClientRect().top;
  canvas.addEventListener("pointerdown", (event) => { if (event.button === 0) { chart.drag = [px(event), px(event)]; canvas.setPointerCapture(event.pointerId); } });
  canvas.addEventListener("pointermove", (event) => { if (chart.drag) chart.drag[1] = Math.max(LEFT, Math.min(chart.width - RIGHT, px(event))); point(chart, px(event), py(event)); });
  canvas.addEventListener("pointerup", () => {
    const drag = chart.drag; chart.drag = null;
    if (drag && Math.abs(drag[1] - drag[0]) > 6) { const [a, b] = drag.map(chart.scale.back).sort((m, n) => m - n); chart.at = null; bubble.hidden = true; zoom(Math.max(a, view.low), Math.min(b, view.high)); } else draw(chart);
  });
  canvas.addEventListener("pointercancel", () => { chart.drag = null; point(chart, null); });
  canvas.addEventListener("pointerleave", () => { if (!chart.drag) point(chart, null); });
  canvas.addEventListener("blur", () => point(chart, null));
  canvas.addEventListener("dblclick", () => zoom(null, null));
  canvas.addEventListener("keydown", (event) => {
    const line = chart.lines.find((each) => !each.hidden && each.x.length);
    if (event.key === "Escape") { point(chart, null); zoom(null, null); return; }
    if (chart.map) keyHeat(chart, event);
    if (!line || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const now = chart.at === null ? line.x.length - 1 : nearest(line, chart.at);
    const by = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: line.x.length - 1 }[event.key];
    point(chart, chart.scale.x(line.x[Math.max(0, Math.min(line.x.length - 1, by))]));
  });
}
