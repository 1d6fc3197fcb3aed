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
  for (const chart of charts) {
    if (chart.map) settleHeat(chart);
    for (const line of chart.lines) {
      const { run, series } = line;
      line.x = along(run, series.s, view.axis);
      line.middleX = series.width ? along(run, series.ms, view.axis) : line.x;
      line.middle = smoothed(series.width ? series.mv : series.v, view.smoothing);
    }
  }
  let low = Infinity, high = -Infinity;
  for (const chart of charts) for (const line of chart.lines) if (line.x.length) {
    low = Math.min(low, line.x[0]); high = Math.max(high, line.x[line.x.length - 1]);
  }
  if (low === Infinity) for (const { x } of charts) if (x) { low = Math.min(low, x[0]); high = Math.max(high, x[x.length - 1]); }
  if (!(high > low)) { low = low === Infinity ? 0 : low - 0.5; high = low + 1; }
  view.low = low; view.high = high;
}
