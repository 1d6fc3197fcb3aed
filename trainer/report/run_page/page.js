"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const view = { axis: "step", smoothing: 0, from: null, to: null };
  const AXES = {
    step: { title: "step", show: (x) => count(x), exact: (x) => Math.round(x).toLocaleString("en") },
    tokens: { title: "tokens", show: (x) => count(x), exact: (x) => count(x, 4) },
    time: { title: "time since the first start", show: duration, exact: duration },
    flops: { title: "model FLOPs", show: (x) => x.toPrecision(2), exact: (x) => x.toPrecision(4) },
  };
  const LEFT = 60, RIGHT = 12, TOP = 12, BOTTOM = 24, COLOURS = 8, DOTS = 80;
  const charts = [];
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const lines = [];
    for (let i = 0; i < COLOURS; i++) lines.push(of(`--c${i}`));
    return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), paper: of("--paper"), lost: of("--lost"), lines };
  };
  let colours = paint();

  // ------------------------------------------------------------------------------------------------------ numbers
  function count(x, digits = 3) {
    const sign = x < 0 ? "-" : "", size = Math.abs(x);
    for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (size >= unit) return sign + trim((size / unit).toPrecision(digits)) + letter;
    return sign + trim(size.toPrecision(digits));
  }
  function trim(text) {
    return text.includes("e") || !text.includes(".") ? text : text.replace(/\.?0+$/, "");
  }
  function duration(s) {
    if (s < 60) return `${trim(s.toPrecision(2))}s`;
    const whole = Math.round(s), d = Math.floor(whole / 86400), h = Math.floor(whole / 3600) % 24;
    const m = Math.floor(whole / 60) % 60;
    if (d) return `${d}d${String(h).padStart(2, "0")}h`;
    return h ? `${h}h${String(m).padStart(2, "0")}m` : `${m}m${String(whole % 60).padStart(2, "0")}s`;
  }
  function value(v, unit) {
    if (unit === "bytes") return v >= 1e9 ? `${trim((v / 1e9).toPrecision(4))} GB` : `${trim((v / 1e6).toPrecision(4))} MB`;
    const size = Math.abs(v);
    if (size >= 1e5) return count(v, 4);
    return size !== 0 && size < 1e-3 ? v.toExponential(3) : trim(v.toPrecision(6));
  }
  function tick(v, unit, step) {
    if (unit === "bytes" || Math.abs(v) >= 1e4) return unit === "bytes" ? value(v, unit) : count(v, 3);
    if (v === 0) return "0";
    if (step < 1e-3) return v.toExponential(Math.max(0, Math.floor(Math.log10(Math.abs(v)) + 1e-9) - Math.floor(Math.log10(step) + 1e-9)));
    return v.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9))));
  }
  function ticks(low, high, wanted) {
    const raw = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw) || raw, found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
    return { step, found };
  }
  function timeTicks(low, high, wanted) {
    const sizes = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000];
    const step = sizes.find((n) => (high - low) / n <= wanted);
    if (!step || high - low < 4) return ticks(low, high, wanted);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
    return { step, found };
  }
  function logTicks(low, high) {
    const found = [], decades = Math.log10(high / low);
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const n of decades > 3 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9])
        if (n * 10 ** power >= low * 0.9999 && n * 10 ** power <= high * 1.0001) found.push(n * 10 ** power);
    return found;
  }

  // --------------------------------------------------------------------------------------------------------- axes
  function below(list, x) { // number of entries <= x
    let low = 0, high = list.length;
    while (low < high) { const middle = (low + high) >> 1; if (list[middle] <= x) low = middle + 1; else high = middle; }
    return low;
  }
  function along(run, steps, axis) { // steps on an axis, between rows in proportion
    if (axis === "step") return Float64Array.from(steps);
    const table = axis === "time" ? run.time : run.tokens, scale = axis === "flops" ? run.flops || 0 : 1, known = run.step;
    return Float64Array.from(steps, (step) => {
      if (!known.length) return step;
      const right = Math.min(known.length - 1, below(known, step)), left = Math.max(0, right - 1);
      const wide = known[right] - known[left];
      const share = wide > 0 ? Math.max(0, Math.min(1, (step - known[left]) / wide)) : 1;
      return (table[left] + share * (table[right] - table[left])) * scale;
    });
  }
  function smoothed(values, weight) { // TensorBoard's: exponential, without the bias of the beginning
    if (!weight) return values;
    const out = new Float64Array(values.length);
    let mean = 0, mass = 0;
    for (let i = 0; i < values.length; i++) { mean = weight * mean + (1 - weight) * values[i]; mass = weight * mass + 1 - weight; out[i] = mean / mass; }
    return out;
  }
  function settle() { // what depends on axis and smoothing
    for (const chart of charts)
      for (const line of chart.lines) {
        const { run, series } = line;
        line.x = along(run, series.s, view.axis);
        line.middleX = series.width ? along(run, series.ms, view.axis) : line.x;
        line.middle = smoothed(series.width ? series.mv : series.v, view.smoothing);
      }
    let low = Infinity, high = -Infinity;
    for (const chart of charts) for (const line of chart.lines) if (line.x.length) {
      low = Math.min(low, line.x[0]); high = Math.max(high, line.x[line.x.length - 1]);
    }
    if (!(high > low)) { low = low === Infinity ? 0 : low - 0.5; high = low + 1; }
    view.low = low; view.high = high;
  }

  // ------------------------------------------------------------------------------------------------------- drawing
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
  function draw(chart) {
    const box = chart.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (!box.width) return;
    chart.width = box.width; chart.height = box.height; chart.dirty = false;
    if (chart.canvas.width !== Math.round(box.width * ratio)) chart.canvas.width = Math.round(box.width * ratio);
    if (chart.canvas.height !== Math.round(box.height * ratio)) chart.canvas.height = Math.round(box.height * ratio);
    const pen = chart.canvas.getContext("2d"), scale = (chart.scale = scales(chart));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    pen.font = "11px system-ui, sans-serif"; pen.lineWidth = 1; pen.lineJoin = "round";
    const bottom = chart.height - BOTTOM, right = chart.width - RIGHT;
    pen.textAlign = "right"; pen.textBaseline = "middle";
    const vertical = chart.log ? { found: logTicks(scale.low, scale.high), step: scale.low } : ticks(scale.low, scale.high, Math.max(2, (bottom - TOP) / 38));
    for (const at of vertical.found) {
      const y = Math.round(scale.y(at)) + 0.5;
      pen.strokeStyle = colours.line; pen.beginPath(); pen.moveTo(LEFT, y); pen.lineTo(right, y); pen.stroke();
      pen.fillStyle = colours.soft; pen.fillText(tick(at, chart.unit, chart.log ? Math.abs(at) : vertical.step), LEFT - 7, y);
    }
    pen.textAlign = "center"; pen.textBaseline = "top";
    const wanted = Math.max(2, (right - LEFT) / (view.axis === "time" ? 70 : 55));
    const across = view.axis === "time" ? timeTicks(scale.from, scale.to, wanted) : ticks(scale.from, scale.to, wanted);
    pen.fillStyle = colours.soft;
    for (const at of across.found) { const x = scale.x(at); if (x > LEFT - 1 && x < right + 1) pen.fillText(AXES[view.axis].show(at), Math.min(x, right - 8), bottom + 7); }
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
    if (chart.drag) { const [a, b] = chart.drag; pen.globalAlpha = 0.15; pen.fillStyle = colours.ink; pen.fillRect(Math.min(a, b), TOP, Math.abs(b - a), bottom - TOP); pen.globalAlpha = 1; }
    if (chart.at !== null) cross(chart, pen, scale, bottom);
    pen.restore();
  }
  function markAt(run, mark) {
    if (view.axis === "time") return mark.time;
    return along(run, [mark.step], view.axis)[0];
  }
  function marks(chart, pen, scale, bottom) { // restarts
    const shown = new Set(chart.lines.filter((line) => !line.hidden).map((line) => line.run));
    for (const run of shown) for (const mark of run.marks) {
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

  // ------------------------------------------------------------------------------------------------------- pointing
  const bubble = document.createElement("div");
  bubble.className = "bubble"; bubble.hidden = true; bubble.setAttribute("role", "status");
  document.body.append(bubble);
  function row(text, colour) {
    const line = document.createElement("div");
    if (colour) { const key = document.createElement("i"); key.style.background = colour; line.append(key); }
    line.append(text);
    return line;
  }
  function tell(chart) {
    const rows = [], scale = chart.scale;
    const shown = chart.lines.filter((line) => !line.hidden && line.x.length);
    const near = shown.map((line) => ({ line, i: nearest(line, chart.at) }));
    if (view.axis !== "step") rows.push(row(AXES[view.axis].exact(chart.at)));
    for (const { line, i } of near.slice(0, 14)) {
      const text = `${line.label}  ${value(line.series.v[i], chart.unit)}  at step ${Math.round(line.series.s[i]).toLocaleString("en")}`;
      rows.push(row(text, colours.lines[line.colour]));
      if (line.series.width > 1) {
        const m = Math.max(0, Math.min(line.middleX.length - 1, below(line.middleX, line.x[i]) - 1));
        rows.push(row(`     mean of ${line.series.width.toLocaleString("en")} rows ${value(line.series.mv[m], chart.unit)}`));
      }
    }
    if (near.length > 14) rows.push(row(`and ${near.length - 14} more`));
    for (const run of new Set(shown.map((line) => line.run))) for (const mark of run.marks)
      if (Math.abs(scale.x(markAt(run, mark)) - scale.x(chart.at)) < 6) rows.push(row(mark.text, colours.lost));
    bubble.replaceChildren(...rows);
    bubble.hidden = false;
    const box = chart.canvas.getBoundingClientRect(), x = box.left + scale.x(chart.at);
    const wide = bubble.offsetWidth, room = document.documentElement.clientWidth;
    bubble.style.left = `${Math.max(4, Math.min(room - wide - 4, x + 14 + wide > room ? x - wide - 14 : x + 14)) + window.scrollX}px`;
    bubble.style.top = `${box.top + TOP + window.scrollY}px`;
  }
  function point(chart, px) {
    if (!chart.scale) return;
    chart.at = px === null ? null : Math.max(chart.scale.from, Math.min(chart.scale.to, chart.scale.back(px)));
    draw(chart);
    if (chart.at === null) bubble.hidden = true; else tell(chart);
  }
  function zoom(from, to) {
    view.from = from; view.to = to;
    document.getElementById("reset").disabled = from === null;
    redraw();
  }
  function listen(chart) {
    const { canvas } = chart;
    const px = (event) => event.clientX - canvas.getBoundingClientRect().left;
    canvas.addEventListener("pointerdown", (event) => { if (event.button === 0) { chart.drag = [px(event), px(event)]; canvas.setPointerCapture(event.pointerId); } });
    canvas.addEventListener("pointermove", (event) => { if (chart.drag) chart.drag[1] = Math.max(LEFT, Math.min(chart.width - RIGHT, px(event))); point(chart, px(event)); });
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
      if (!line || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const now = chart.at === null ? line.x.length - 1 : nearest(line, chart.at);
      const by = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: line.x.length - 1 }[event.key];
      point(chart, chart.scale.x(line.x[Math.max(0, Math.min(line.x.length - 1, by))]));
    });
  }

  // ---------------------------------------------------------------------------------------------------------- page
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) { const chart = charts[entry.target.dataset.number]; chart.visible = entry.isIntersecting; if (chart.visible && chart.dirty) draw(chart); }
  }, { rootMargin: "300px" });
  function redraw() {
    for (const chart of charts) { chart.dirty = true; if (chart.visible) draw(chart); }
  }
  const sets = new Map(); // a validation set has one colour in all charts
  function colourOf(line, number) {
    if (data.runs.length > 1 || !line.metric.startsWith("eval/")) return number % COLOURS;
    if (!sets.has(line.label)) sets.set(line.label, 1 + (sets.size % (COLOURS - 1)));
    return sets.get(line.label);
  }
  for (const figure of document.querySelectorAll("figure.chart")) {
    const described = data.charts[figure.dataset.chart], canvas = figure.querySelector("canvas");
    const lines = described.lines.map((line, number) => ({
      run: data.runs[line.run], metric: line.metric, label: line.label, series: data.runs[line.run].series[line.metric], colour: colourOf(line, number), hidden: false,
    }));
    const chart = { canvas, lines, unit: described.unit, log: false, at: null, drag: null, dirty: true, visible: false };
    canvas.dataset.number = charts.push(chart) - 1;
    const legend = figure.querySelector(".legend");
    if (lines.length > 1)
      for (const line of lines) {
        const key = document.createElement("button");
        key.type = "button"; key.className = `key c${line.colour}`; key.textContent = line.label; key.setAttribute("aria-pressed", "true");
        key.addEventListener("click", () => { line.hidden = !line.hidden; key.setAttribute("aria-pressed", String(!line.hidden)); draw(chart); });
        legend.append(key);
      }
    const log = figure.querySelector("button.log");
    log.addEventListener("click", () => { chart.log = !chart.log; log.setAttribute("aria-pressed", String(chart.log)); draw(chart); });
    if (!lines.some((line) => line.series.v.some((v) => v > 0))) log.hidden = true;
    listen(chart);
  }
  const buttons = [...document.querySelectorAll("[data-axis]")];
  function by(axis) {
    view.axis = axis; view.from = view.to = null;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
    settle(); zoom(null, null);
  }
  for (const button of buttons) button.addEventListener("click", () => by(button.dataset.axis));
  const slider = document.getElementById("smoothing");
  function smooth(weight) {
    view.smoothing = weight;
    document.getElementById("smoothed").textContent = weight ? weight.toFixed(2) : "off";
    settle(); redraw();
  }
  if (slider) slider.addEventListener("input", () => smooth(Number(slider.value)));
  const reset = document.getElementById("reset");
  if (reset) reset.addEventListener("click", () => zoom(null, null));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = paint(); redraw(); });
  new ResizeObserver(redraw).observe(document.body);
  settle();
  const asked = new URLSearchParams(location.hash.slice(1)); // a link may say #by=time&smoothing=0.9
  if (buttons.some((button) => button.dataset.axis === asked.get("by"))) by(asked.get("by"));
  if (slider && Number(asked.get("smoothing")) > 0) { slider.value = asked.get("smoothing"); smooth(Number(slider.value)); }
  for (const chart of charts) seen.observe(chart.canvas);
  for (const chart of charts.slice(0, 4)) draw(chart);
  document.documentElement.dataset.drawn = Math.round(performance.now()); // ms since the page was asked for
})();
