"use strict";
const runs = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colours = ["#4a66c4", "#c9552f", "#2f8f63", "#b8860b", "#8e4585", "#3a8f3a", "#c23b6f", "#607080", "#7a5c3e", "#2f9fc4"];

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "circle", "text", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Numbers for people.
const digits = (value, most) => Number(value.toPrecision(most)).toLocaleString("en", {maximumFractionDigits: 6});
const percent = (value) => (100 * value).toFixed(2) + " %";
function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit + 1 < units.length) { value /= 1000; unit += 1; }
  return digits(value, 3) + " " + units[unit];
}
function seconds(value) {
  if (value < 120) return digits(value, 3) + " s";
  if (value < 7200) return digits(value / 60, 3) + " min";
  if (value < 172800) return digits(value / 3600, 3) + " h";
  return digits(value / 86400, 3) + " days";
}

const metrics = [
  {key: "accuracy", name: "accuracy", format: percent, note: "Part of the evaluated rows (of a language model: tokens) that the committed adapter gets right."},
  {key: "loss", name: "evaluation loss", format: (v) => digits(v, 4), note: "Mean cross-entropy of the evaluated rows, in nats."},
  {key: "f1", name: "F1", format: (v) => digits(v, 4), note: "Mean over classes of 2 correct / (predicted + actual)."},
  {key: "perplexity", name: "perplexity", format: (v) => digits(v, 4), note: "exp of the loss per token."},
  {key: "train_loss", name: "training loss", format: (v) => digits(v, 4), note: "Mean over the round's updates, weighted by examples, in nats; measured while clients train."},
  {key: "bytes_up", name: "bytes sent", format: bytes, note: "Of all updates of the round, as they are encoded on the wire."},
  {key: "bytes_down", name: "bytes downloaded", format: bytes, note: "Of the state that the round's clients downloaded."},
  {key: "epsilon", name: "privacy spent", format: (v) => digits(v, 4), note: "Epsilon of the differential privacy of clients, up to and with each round."},
];
const axes = [
  {key: "round", name: "rounds", format: (v) => digits(v, 4)},
  {key: "simulated_seconds", name: "simulated time", format: seconds},
  {key: "real_total", name: "real time", format: seconds},
  {key: "bytes_total", name: "bytes moved", format: bytes},
];

for (const run of runs) {
  let real = 0, moved = 0;
  // What is no number, such as a loss that has diverged, is null.
  for (const part of [run.summary, ...run.rounds, ...run.clients]) {
    for (const [key, value] of Object.entries(part)) if (value === null) delete part[key];
  }
  for (const round of run.rounds) {
    real += round.real_seconds;
    moved += round.bytes_up + round.bytes_down;
    round.real_total = real;
    round.bytes_total = moved;
    round.late = Math.max(0, round.selected - round.updates - round.refused - round.failed - round.lost - round.hung);
  }
}

// Settings in which runs differ, as "a.b.c".
function flatten(value, path, into) {
  if (value !== null && typeof value === "object") {
    for (const [key, inner] of Object.entries(value)) flatten(inner, path ? path + "." + key : key, into);
  } else {
    into[path] = value;
  }
  return into;
}
const settings = runs.map((run) => flatten(run.scenario, "", {}));
const differing = [...new Set(settings.flatMap(Object.keys))]
  .filter((key) => key !== "job.name" && key !== "run.out" && new Set(settings.map((s) => JSON.stringify(s[key]))).size > 1);
const isSeed = (key) => key === "job.seed" || key === "population.seed";
// The last words of a path that tell it from the others, without a "name" at the end.
const wordsOf = (key) => key.split(".").filter((word, i, all) => i + 1 < all.length || word !== "name" || i === 0);
function shortName(key) {
  const words = wordsOf(key), last = (list, count) => list.slice(-count).join(".");
  let count = 1;
  while (count < words.length && differing.filter((other) => last(wordsOf(other), count) === last(words, count)).length > 1) count += 1;
  return last(words, count);
}
function nameOf(index, keys = differing) {
  const parts = keys.map((key) => shortName(key) + " " + (settings[index][key] ?? "–"));
  return parts.length ? parts.join(", ") : runs[index].name;
}
const names = runs.map((run, index) => (new Set(runs.map((_, i) => nameOf(i))).size === runs.length ? nameOf(index) : run.name));

function showTip(event, text) {
  const tip = byId("tip");
  tip.hidden = false;
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = event.clientY + 14 + "px";
}
function withTip(node, text) {
  node.addEventListener("pointermove", (event) => showTip(event, text));
  node.addEventListener("pointerleave", () => { byId("tip").hidden = true; });
  return node;
}

// Round steps of an axis.
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const list = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) list.push(v);
  return list;
}

const size = {width: 1000, height: 340, left: 74, right: 30, top: 12, bottom: 40};
// A frame with axes; gives places of values.
function frame(host, x, y, formatX, formatY) {
  const svg = el("svg", {viewBox: `0 0 ${size.width} ${size.height}`, role: "img"});
  const placeX = (v) => size.left + ((v - x[0]) / (x[1] - x[0] || 1)) * (size.width - size.left - size.right);
  const placeY = (v) => size.height - size.bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (size.height - size.top - size.bottom);
  for (const v of ticks(y[0], y[1], 5)) {
    svg.append(el("line", {class: "grid", x1: size.left, x2: size.width - size.right, y1: placeY(v), y2: placeY(v)}),
      el("text", {x: size.left - 8, y: placeY(v) + 4, "text-anchor": "end"}, formatY(v)));
  }
  for (const v of ticks(x[0], x[1], 7)) svg.append(el("text", {x: placeX(v), y: size.height - 14, "text-anchor": "middle"}, formatX(v)));
  host.replaceChildren(svg);
  return {svg, placeX, placeY};
}
function empty(host, text) {
  host.replaceChildren(el("svg", {viewBox: "0 0 1000 80"}, el("text", {class: "empty", x: 20, y: 44}, text)));
}

function drawCurve() {
  const metric = metrics.find((m) => m.key === byId("metric").value), axis = axes.find((a) => a.key === byId("axis").value);
  byId("metric-note").textContent = metric.note;
  const lines = runs.map((run) => run.rounds.filter((r) => r[metric.key] !== undefined && r[metric.key] !== null));
  const points = lines.flat();
  if (!points.length) return empty(byId("curve"), "No round has this figure.");
  const values = points.map((p) => p[metric.key]), low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  const {svg, placeX, placeY} = frame(byId("curve"), [Math.min(0, ...points.map((p) => p[axis.key])), Math.max(...points.map((p) => p[axis.key]))],
    [Math.max(low - room, low >= 0 ? 0 : -Infinity), high + room], axis.format, metric.format);
  lines.forEach((line, i) => {
    const colour = colours[i % colours.length];
    svg.append(el("path", {d: line.map((p, j) => `${j ? "L" : "M"}${placeX(p[axis.key]).toFixed(1)},${placeY(p[metric.key]).toFixed(1)}`).join(""),
      fill: "none", stroke: colour, "stroke-width": 2}));
    for (const p of line) {
      svg.append(withTip(el("circle", {class: "point", cx: placeX(p[axis.key]), cy: placeY(p[metric.key]), r: line.length > 80 ? 2 : 4, fill: colour}),
        `${runs.length > 1 ? names[i] + ", " : ""}round ${p.round}: ${metric.name} ${metric.format(p[metric.key])} at ${axis.format(p[axis.key])}`));
    }
  });
}

const fates = [["updates", "folded", "#4a66c4"], ["late", "late", "#9bb0c3"], ["refused", "refused", "#c9552f"], ["failed", "failed", "#8e4585"],
  ["lost", "lost", "#b8860b"], ["hung", "hung", "#607080"]];
function drawFates() {
  const rounds = runs[Number(byId("run").value || 0)].rounds;
  if (!rounds.length) return empty(byId("fates"), "No round was committed.");
  const most = Math.max(...rounds.map((r) => fates.reduce((sum, [key]) => sum + r[key], 0)));
  const whole = (v) => (Number.isInteger(v) ? digits(v, 6) : "");
  const {svg, placeX, placeY} = frame(byId("fates"), [rounds[0].round - 0.5, rounds[rounds.length - 1].round + 0.5], [0, most || 1], whole, whole);
  for (const round of rounds) {
    let base = 0;
    for (const [key, name, colour] of fates) {
      if (!round[key]) continue;
      const left = placeX(round.round - 0.42), top = placeY(base + round[key]);
      svg.append(withTip(el("rect", {x: left, y: top, width: placeX(round.round + 0.42) - left, height: placeY(base) - top, fill: colour}),
        `round ${round.round}: ${digits(round[key], 6)} ${name}`));
      base += round[key];
    }
  }
}

function drawHistogram() {
  const run = runs[Number(byId("run").value || 0)], figures = run.summary.clients;
  byId("fairness-section").hidden = !figures;
  if (!figures) return;
  byId("fairness").textContent = `${digits(figures.clients, 6)} clients: mean ${percent(figures.mean)}, standard deviation ${percent(figures.sd)}, ` +
    `worst tenth ${percent(figures.worst_tenth)} on average, median ${percent(figures.median)}, 10 and 90 % points ${percent(figures.percentile_10)} and ${percent(figures.percentile_90)}.`;
  const bins = new Array(20).fill(0);
  for (const client of run.clients) if (client.accuracy !== undefined) bins[Math.min(19, Math.floor(client.accuracy * 20))] += 1;
  const {svg, placeX, placeY} = frame(byId("histogram"), [0, 1], [0, Math.max(...bins)], (v) => (100 * v).toFixed(0) + " %", (v) => (Number.isInteger(v) ? digits(v, 6) : ""));
  bins.forEach((count, i) => {
    if (!count) return;
    svg.append(withTip(el("rect", {class: "bin", x: placeX(i / 20) + 1, y: placeY(count), width: placeX(1 / 20) - placeX(0) - 2, height: placeY(0) - placeY(count), fill: colours[0]}),
      `${count} clients from ${5 * i} to ${5 * i + 5} %`));
  });
}

function table(host, columns, rows) {
  host.replaceChildren(el("tr", {}, ...columns.map((c) => el("th", {}, c))), ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell)))));
}

function drawRounds() {
  const shown = [["round", "round", String], ["accuracy", "accuracy", percent], ["loss", "loss", (v) => digits(v, 4)], ["f1", "F1", (v) => digits(v, 4)],
    ["perplexity", "perplexity", (v) => digits(v, 4)], ["train_loss", "training loss", (v) => digits(v, 4)], ["updates", "updates", String],
    ["selected", "asked", String], ["abandoned", "tries before", String], ["bytes_up", "up", bytes], ["bytes_down", "down", bytes],
    ["epsilon", "epsilon", (v) => digits(v, 4)], ["simulated_seconds", "simulated time", seconds], ["real_seconds", "real time", seconds]];
  const rounds = runs[Number(byId("run").value || 0)].rounds;
  const columns = shown.filter(([key]) => rounds.some((r) => r[key] !== undefined));
  table(byId("rounds"), columns.map(([, name]) => name), rounds.map((r) => columns.map(([key, , format]) => (r[key] === undefined ? "" : format(r[key])))));
}

// Mean and standard deviation (n - 1) as text.
function spread(values, format) {
  const known = values.filter((v) => v !== undefined);
  if (!known.length) return "–";
  const mean = known.reduce((a, b) => a + b, 0) / known.length;
  if (known.length === 1) return format(mean);
  const sd = Math.sqrt(known.reduce((a, v) => a + (v - mean) ** 2, 0) / (known.length - 1));
  return `${format(mean)} ± ${format(sd)}`;
}

function drawRuns() {
  if (runs.length < 2) return;
  byId("runs-section").hidden = false;
  const keys = differing.filter((key) => !isSeed(key)), groups = new Map();
  runs.forEach((run, i) => {
    const name = keys.length ? nameOf(i, keys) : differing.length ? "all seeds" : run.name;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(run.summary);
  });
  table(byId("runs"), ["setting", "runs", "final accuracy", "best accuracy", "worst tenth", "up", "down", "simulated time", "real time"],
    [...groups].map(([name, list]) => {
      const of = (read, format) => spread(list.map(read), format);
      return [name, String(list.length), of((s) => s.final_accuracy, percent), of((s) => s.best_accuracy, percent), of((s) => s.clients?.worst_tenth, percent),
        of((s) => s.bytes_up, bytes), of((s) => s.bytes_down, bytes), of((s) => s.simulated_seconds, seconds), of((s) => s.real_seconds, seconds)];
    }));
}

// When each run first reached an accuracy.
function drawTarget() {
  const target = Number(byId("target").value) / 100;
  table(byId("targets"), ["run", "round", "simulated time", "real time", "sent by clients", "downloaded"], runs.map((run, i) => {
    const end = run.rounds.findIndex((r) => r.accuracy >= target), name = runs.length > 1 ? names[i] : run.name;
    if (!(target > 0) || end < 0) return [name, "not reached", "", "", "", ""];
    const until = run.rounds.slice(0, end + 1), sum = (key) => until.reduce((total, r) => total + r[key], 0);
    return [name, String(run.rounds[end].round), seconds(run.rounds[end].simulated_seconds), seconds(run.rounds[end].real_total), bytes(sum("bytes_up")), bytes(sum("bytes_down"))];
  }));
}

function drawTiles() {
  const single = runs.length === 1, s = runs[0].summary;
  byId("title").textContent = single ? runs[0].name : `${runs.length} simulated runs`;
  document.title = byId("title").textContent + " – Weft";
  const job = runs[0].scenario.job;
  byId("lead").textContent = single
    ? `${digits(s.population, 8)} virtual clients tuned ${digits(s.parameters, 8)} numbers by rule ${job.aggregator?.name ?? "fedavg"}, over a frozen base. It ${s.state}: ${s.message}.`
    : "Virtual clients, each with rows of its own, tune a small adapter over a frozen base; a coordinator combines what they send.";
  if (!single) return;
  const tiles = [];
  if (s.final_accuracy !== undefined) {
    tiles.push([percent(s.final_accuracy), "accuracy at the end"], [percent(s.best_accuracy), `best accuracy, in round ${s.best_round}`]);
  }
  if (s.clients) tiles.push([percent(s.clients.worst_tenth), "the worst tenth of clients, on average"]);
  tiles.push([digits(s.rounds, 6), "rounds"], [bytes(s.bytes_up), "sent by all clients"], [bytes(s.bytes_down), "downloaded by all clients"]);
  if (s.epsilon !== undefined) tiles.push([digits(s.epsilon, 4), `epsilon spent${s.delta === undefined ? "" : ", delta " + s.delta}`]);
  tiles.push([seconds(s.simulated_seconds), "simulated time"], [seconds(s.real_seconds), `real time, ${s.threads} ${s.threads === 1 ? "thread" : "threads"} on ${s.device.split(" ")[0]}`],
    [digits(s.updates_per_second, 3), "updates a second"], [digits(s.peak_memory_mb, 4) + " MB", "memory at most"]);
  byId("tiles").replaceChildren(...tiles.map(([value, name]) => el("div", {class: "tile"}, el("b", {}, value), el("span", {}, name))));
}

function legend(host, entries) {
  host.replaceChildren(...entries.map(([name, colour]) => el("span", {}, el("i", {style: `background:${colour}`}), name)));
}

const has = (key) => runs.some((run) => run.rounds.some((r) => r[key] !== undefined));
byId("metric").append(...metrics.filter((m) => has(m.key)).map((m) => el("option", {value: m.key}, m.name)));
byId("axis").append(...axes.map((a) => el("option", {value: a.key}, a.name)));
byId("run").append(...runs.map((_, i) => el("option", {value: i}, names[i])));
byId("run-label").hidden = runs.length < 2;
// Nine tenths of the best that all have reached, unless the scenario says it.
const best = runs.map((run) => run.summary.best_accuracy).filter((v) => v !== undefined);
byId("target-section").hidden = !best.length;
const wanted = runs[0].scenario.evaluation?.target_accuracy ?? runs[0].scenario.job.stop?.target_accuracy ?? 0.9 * Math.min(...best);
byId("target").value = (Math.floor(wanted * 1000) / 10).toFixed(1);
byId("target").addEventListener("input", drawTarget);
byId("metric").addEventListener("change", drawCurve);
byId("axis").addEventListener("change", drawCurve);
function drawRun() {
  drawFates();
  drawHistogram();
  drawRounds();
  byId("scenario").textContent = JSON.stringify(runs[Number(byId("run").value || 0)].scenario, null, 1);
}
byId("run").addEventListener("change", drawRun);
if (runs.length > 1) legend(byId("legend"), names.map((name, i) => [name, colours[i % colours.length]]));
legend(byId("fates-legend"), fates.map(([, name, colour]) => [name, colour]));
drawTiles();
drawTarget();
drawRuns();
drawCurve();
drawRun();
