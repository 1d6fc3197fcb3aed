// Heat maps, layer by step: they share axis and zoom with the curves. `chart.map` is what Python's charts.py says of one.
const HEAT_LEFT = 92, HEAT_RIGHT = 66, ROW = 13;
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis, as matplotlib has it
const LADDER = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1), k = Math.min(STOPS.length - 2, Math.floor(at));
  return `rgb(${STOPS[k].map((from, j) => Math.round(from + (STOPS[k + 1][j] - from) * (at - k))).join(",")})`;
});

function edgesOf({ first, last }) { // n columns have n + 1 edges, in steps: half way between neighbours
  const n = first.length, half = n > 1 ? (first[1] - last[0]) / 2 : 0.5;
  return [first[0] - half, ...first.slice(1).map((step, i) => (last[i] + step) / 2), last[n - 1] + half];
}
function settleHeat(chart) {
  const ends = along(chart.run, chart.edges, view.axis);
  ends[0] = Math.min(ends[0], ends[1]); // along() knows nothing before the first row, nor after the last
  chart.x = ends;
}
function shades(chart, from, to) { // what the darkest and the lightest colour stand for, of the columns that are seen
  let low = Infinity, high = -Infinity;
  for (const row of chart.map.cells) for (let i = 0; i < row.length; i++) {
    const v = row[i];
    if (v === null || chart.x[i + 1] < from || chart.x[i] > to || (chart.log && v <= 0)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return low > high ? null : { low, high };
}
function shade(v, { low, high }, log) {
  if (v === null || (log && v <= 0)) return null;
  const flat = (x) => (log ? Math.log(x) : x), wide = flat(high) - flat(low);
  return LADDER[wide > 0 ? Math.max(0, Math.min(255, Math.round((255 * (flat(v) - flat(low))) / wide))) : 128];
}
function drawHeat(chart) {
  const pen = prepare(chart), { map } = chart, rows = map.cells.length;
  if (!pen) return;
  const from = view.from ?? view.low, to = view.to ?? view.high, left = HEAT_LEFT, right = chart.width - HEAT_RIGHT;
  const bottom = chart.height - BOTTOM, tall = (bottom - TOP) / rows, wide = right - left;
  const x = (at) => left + ((at - from) / (to - from)) * wide, back = (px) => from + ((px - left) / wide) * (to - from);
  const scale = (chart.scale = { from, to, x, back, y: (row) => TOP + row * tall, tall });
  pen.fillStyle = colours.soft; pen.textAlign = "right"; pen.textBaseline = "middle";
  const every = Math.ceil(11 / tall);
  for (let row = 0; row < rows; row += every) pen.fillText(map.labels[row].slice(0, 14), left - 7, scale.y(row) + tall / 2);
  across(chart, pen, left, right, bottom);
  const range = shades(chart, from, to);
  if (!range) { pen.textAlign = "center"; pen.fillText("no values here", (left + right) / 2, (TOP + bottom) / 2); return; }
  pen.save();
  pen.beginPath(); pen.rect(left, TOP, wide, bottom - TOP); pen.clip();
  for (let row = 0; row < rows; row++) {
    const top = Math.round(scale.y(row)), height = Math.round(scale.y(row + 1)) - top;
    for (let i = 0; i < map.first.length; i++) {
      const colour = shade(map.cells[row][i], range, chart.log);
      if (!colour || chart.x[i + 1] < from || chart.x[i] > to) continue;
      const begin = Math.floor(x(chart.x[i]));
      pen.fillStyle = colour; pen.fillRect(begin, top, Math.max(1, Math.ceil(x(chart.x[i + 1])) - begin), height);
    }
  }
  marks(chart, pen, scale, bottom);
  if (chart.drag) selection(chart, pen, bottom);
  if (chart.at) {
    const { row, column } = chart.at, begin = x(chart.x[column]), end = x(chart.x[column + 1]);
    pen.strokeStyle = colours.ink; pen.lineWidth = 2; pen.strokeRect(begin, scale.y(row), Math.max(3, end - begin), tall);
  }
  pen.restore();
  legendOf(chart, pen, range, right + 12, bottom);
}
function legendOf(chart, pen, range, left, bottom) { // the ladder of colours beside the map
  for (let y = TOP; y < bottom; y++) {
    pen.fillStyle = LADDER[Math.round((255 * (bottom - 1 - y)) / Math.max(1, bottom - 1 - TOP))]; pen.fillRect(left, y, 8, 1);
  }
  pen.fillStyle = colours.soft; pen.textAlign = "left";
  pen.textBaseline = "top"; pen.fillText(short(range.high), left + 12, TOP - 2);
  pen.textBaseline = "bottom"; pen.fillText(short(range.low), left + 12, bottom + 2);
}
function short(v) {
  const size = Math.abs(v);
  return size !== 0 && (size < 1e-2 || size >= 1e4) ? v.toExponential(1) : trim(v.toPrecision(3));
}
function pointHeat(chart, px, py) {
  if (!chart.scale) return;
  const { scale, map } = chart;
  if (px === null || px < HEAT_LEFT || px > chart.width - HEAT_RIGHT || py < TOP || py > chart.height - BOTTOM) chart.at = null;
  else {
    const column = Math.max(0, Math.min(map.first.length - 1, below(chart.x, scale.back(px)) - 1));
    chart.at = { row: Math.max(0, Math.min(map.cells.length - 1, Math.floor((py - TOP) / scale.tall))), column };
  }
  showCell(chart);
}
function showCell(chart) {
  draw(chart);
  if (!chart.at) { bubble.hidden = true; return; }
  const { map, scale } = chart, { row, column } = chart.at, v = map.cells[row][column];
  const name = /^\d+$/.test(map.labels[row]) ? `layer ${map.labels[row]}` : map.labels[row];
  const step = (n) => Math.round(n).toLocaleString("en"), first = map.first[column], last = map.last[column];
  const where = first === last ? `at step ${step(first)}` : `in steps ${step(first)} to ${step(last)}`;
  const told = (n) => (n === null ? "no value" : value(n, ""));
  const both = map.others && first !== last ? `${map.shows} ${told(v)}, ${map.shows === "least" ? "greatest" : "least"} ${told(map.others[row][column])}` : told(v);
  const colour = shades(chart, scale.from, scale.to);
  const lines = [line(`${name}  ${both}  ${where}`, (colour && shade(v, colour, chart.log)) || colours.soft)];
  if (view.axis !== "step") lines.unshift(line(AXES[view.axis].exact(chart.x[column])));
  place(chart, lines, scale.x(Math.max(scale.from, (chart.x[column] + chart.x[column + 1]) / 2)), scale.y(row + 1));
}
function keyHeat(chart, event) {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const { cells, first } = chart.map, now = chart.at || { row: 0, column: first.length - 1 - move[1] };
  const within = (n, most) => Math.max(0, Math.min(most - 1, n));
  chart.at = { row: within(now.row + move[0], cells.length), column: within(now.column + move[1], first.length) };
  showCell(chart);
}
function makeHeat(figure) {
  const map = data.maps[figure.dataset.map], run = data.runs[0], canvas = figure.querySelector("canvas");
  const chart = { canvas, map, run, lines: [], edges: edgesOf(map), log: false, at: null, drag: null, dirty: true, visible: false };
  const all = map.cells.flat().filter((v) => v !== null), low = Math.min(...all), high = Math.max(...all);
  chart.log = low > 0 && high / low > 30;
  canvas.style.height = `${Math.max(6 * ROW, Math.min(26 * ROW, map.cells.length * ROW)) + TOP + BOTTOM}px`;
  canvas.dataset.number = charts.push(chart) - 1;
  const log = figure.querySelector("button.log");
  log.hidden = !(high > 0);
  log.setAttribute("aria-pressed", String(chart.log));
  log.addEventListener("click", () => { chart.log = !chart.log; log.setAttribute("aria-pressed", String(chart.log)); draw(chart); });
  listen(chart);
}
