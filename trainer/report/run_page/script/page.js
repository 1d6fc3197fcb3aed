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
for (const figure of document.querySelectorAll("figure.chart:not(.map)")) {
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
for (const figure of document.querySelectorAll("figure.map")) makeHeat(figure);
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
const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
let next = 0;
function drawRest() { // what is further down, one by one: a picture or a print of the page has all of it
  while (next < charts.length && !charts[next].dirty) next++;
  if (next < charts.length) { draw(charts[next++]); idle(drawRest); }
}
idle(drawRest);
addEventListener("beforeprint", () => { colours = paint(); for (const chart of charts) draw(chart); });
