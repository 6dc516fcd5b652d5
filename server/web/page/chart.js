// A small line chart over rounds: axes, a value under the pointer, arrow keys. Drawn at the size it has on the screen.

import {el, svg} from "/dom.js";

const margin = {top: 30, right: 16, bottom: 46, left: 48};

// Round steps: 1, 2 or 5 times a power of ten.
export function niceStep(span, wanted) {
  const raw = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw * 0.999);
}

export class Chart {
  // series: [{key, name}]; format: value -> text; bounds: the range a value can have; fromZero: whether the axis always shows zero.
  constructor(host, {series, format, bounds, fromZero, label, empty}) {
    Object.assign(this, {host, series, format, bounds, fromZero, label, emptyText: empty});
    this.data = {points: [], last: 1, target: null, unit: ""};
    this.focus = null;
    this.tip = el("div", {class: "tip", hidden: ""});
    this.note = el("p", {class: "chart-empty"}, empty);
    this.canvas = svg("svg", {role: "img", tabindex: "0"});
    this.legend = el("ul", {class: "legend", "aria-hidden": "true"},
        ...series.map((s) => el("li", {class: `key ${s.key}`}, s.name)));
    if (series.length === 1) this.legend.append(el("li", {class: "key best-round"}, "Best round"));
    host.append(this.canvas, this.tip, this.note, this.legend);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.focusOn(null));
    this.canvas.addEventListener("blur", () => this.focusOn(null));
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(host);
  }

  // points: [{round, <series key>: value or null}], by round; last: right end of the axis; target: a line to reach, or null; best: a round;
  // unit: the title of the y axis.
  update(data) {
    const text = JSON.stringify(data);
    if (text === this.text) return;
    this.text = text;
    this.data = data;
    this.draw();
  }

  draw() {
    const width = this.host.clientWidth;
    if (width === 0) return;
    const height = Math.round(Math.max(220, Math.min(290, width * 0.58)));
    const {points, last, target} = this.data;
    const values = points.flatMap((p) => this.series.map((s) => p[s.key])).filter((v) => v !== null);
    this.note.hidden = values.length > 0;
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("height", height);
    this.canvas.setAttribute("aria-label", this.describe(points));
    this.setScales(width, height, [...values, ...target === null ? [] : [target], ...this.fromZero ? [0] : []], last);
    this.canvas.replaceChildren(this.axes(width, height), ...this.targetLine(width, target),
        ...this.series.map((s) => this.line(s, points, height)), this.cursor = svg("g", {class: "cursor"}));
    this.focusOn(this.focus);
  }

  setScales(width, height, values, last) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (values.length === 0 || low === 0 && high === 0) {
      [low, high] = [0, 1];
    } else if (high - low < 1e-6) {
      low -= 0.05 * Math.max(1, Math.abs(low));
      high += 0.05 * Math.max(1, Math.abs(high));
    }
    const step = niceStep(high - low, 4);
    this.low = Math.max(this.bounds[0], Math.floor(low / step) * step);
    this.high = Math.min(this.bounds[1], Math.ceil(high / step - 1e-9) * step);
    this.yStep = step;
    this.last = Math.max(2, last);
    this.x = (round) => margin.left + (round - 1) / (this.last - 1) * (width - margin.left - margin.right);
    this.y = (value) =>
        height - margin.bottom - (value - this.low) / (this.high - this.low) * (height - margin.top - margin.bottom);
  }

  axes(width, height) {
    const group = svg("g", {class: "axes", "aria-hidden": "true"});
    for (let value = this.low; value <= this.high + this.yStep * 1e-6; value += this.yStep) {
      const y = this.y(value);
      group.append(svg("line", {x1: margin.left, x2: width - margin.right, y1: y, y2: y}),
          svg("text", {x: margin.left - 10, y: y + 4, class: "y"}, this.format(value, this.yStep)));
    }
    for (const round of this.roundTicks(width)) {
      group.append(svg("text", {x: this.x(round), y: height - margin.bottom + 20, class: "x"}, String(round)));
    }
    group.append(svg("text", {x: (margin.left + width - margin.right) / 2, y: height - 6, class: "x title"}, "round"),
        svg("text", {x: 0, y: 12, class: "title"}, this.data.unit));
    return group;
  }

  // The first round and then round numbers.
  roundTicks(width) {
    const step = Math.max(1, Math.round(niceStep(this.last - 1, Math.min(8, width / 60))));
    const ticks = [1];
    for (let round = step > 1 ? step : 2; round <= this.last; round += step) ticks.push(round);
    return ticks;
  }

  targetLine(width, target) {
    if (target === null) return [];
    const y = this.y(target);
    return [svg("line", {class: "target", x1: margin.left, x2: width - margin.right, y1: y, y2: y}),
        svg("text", {class: "target-text", x: margin.left + 6, y: y - 6}, `target ${this.format(target)}`)];
  }

  line(series, points, height) {
    const known = points.filter((p) => p[series.key] !== null);
    const group = svg("g", {class: `series ${series.key}`});
    if (known.length === 0) return group;
    const at = (p) => `${this.x(p.round).toFixed(1)},${this.y(p[series.key]).toFixed(1)}`;
    const path = `M${known.map(at).join("L")}`;
    if (this.fromZero && known.length > 1) {
      const floor = height - margin.bottom;
      group.append(svg("path", {class: "area",
        d: `${path}L${this.x(known.at(-1).round)},${floor}L${this.x(known[0].round)},${floor}Z`}));
    }
    group.append(svg("path", {class: "curve", d: path}));
    const isBest = (p) => this.series.length === 1 && p.round === this.data.best;
    const dots = known.length <= 40 ? known : known.filter((p) => p === known.at(-1) || isBest(p));
    for (const p of dots) {
      const best = isBest(p);
      group.append(svg("circle", {class: best ? "best" : "dot", r: best ? 5 : 3, cx: this.x(p.round), cy: this.y(p[series.key])}));
    }
    return group;
  }

  describe(points) {
    const parts = this.series.map((s) => {
      const known = points.filter((p) => p[s.key] !== null);
      if (known.length === 0) return "";
      return `${s.name} from ${this.format(known[0][s.key])} in round ${known[0].round} ` +
          `to ${this.format(known.at(-1)[s.key])} in round ${known.at(-1).round}`;
    }).filter((text) => text !== "");
    return parts.length > 0 ? `${this.label}: ${parts.join("; ")}. Arrow keys read single rounds.` : this.emptyText;
  }

  point(event) {
    const {points} = this.data;
    if (points.length === 0) return;
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    const distance = (p) => Math.abs(this.x(p.round) - x);
    this.focusOn(points.reduce((a, b) => distance(b) < distance(a) ? b : a).round);
  }

  step(event) {
    const {points} = this.data;
    const now = points.findIndex((p) => p.round === this.focus);
    const end = points.length - 1;
    const next = {ArrowLeft: now < 0 ? end : now - 1, ArrowRight: now + 1, Home: 0, End: end}[event.key];
    if (next === undefined || end < 0) return;
    event.preventDefault();
    this.focusOn(points[Math.max(0, Math.min(end, next))].round);
  }

  focusOn(round) {
    const p = round === null ? undefined : this.data.points.find((q) => q.round === round);
    this.focus = p === undefined ? null : round;
    this.tip.hidden = p === undefined;
    this.cursor?.replaceChildren();
    if (p === undefined) return;
    const x = this.x(round);
    const known = this.series.filter((s) => p[s.key] !== null);
    this.cursor.append(svg("line", {x1: x, x2: x, y1: margin.top, y2: this.canvas.clientHeight - margin.bottom}),
        ...known.map((s) => svg("circle", {class: s.key, r: 5, cx: x, cy: this.y(p[s.key])})));
    this.tip.replaceChildren(el("strong", {}, `Round ${round}`),
        ...known.map((s) => el("span", {class: `key ${s.key}`}, `${s.name} ${this.format(p[s.key])}`)));
    const left = Math.max(4, Math.min(this.host.clientWidth - this.tip.offsetWidth - 4,
        x < this.host.clientWidth / 2 ? x + 14 : x - this.tip.offsetWidth - 14));
    this.tip.style.transform = `translate(${left}px, ${margin.top}px)`;
    this.canvas.setAttribute("aria-description", this.tip.textContent);
  }
}
