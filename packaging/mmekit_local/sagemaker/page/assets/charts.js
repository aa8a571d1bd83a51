// Lines over the last minutes, five at most, as SVG with axes and a legend that tells the values.

import { element, write } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const SPANS = [60, 120, 300]; // seconds: a young endpoint's first minute fills the chart
const HEIGHT = 170;
const LEFT = 44;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function linearScale(values) {
  const most = Math.max(1, ...values);
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const top = Math.ceil(most / step) * step;
  const ticks = [];
  for (let tick = 0; tick <= top + step / 2; tick += step) ticks.push(tick);
  return { ticks, place: (value) => value / top };
}

// Cold loads take a thousand times as long as warm requests: decades show both.
function decadeScale(values) {
  const positive = values.filter((value) => value > 0);
  const low = Math.floor(Math.log10(Math.min(1, ...positive)));
  const high = Math.max(low + 2, Math.ceil(Math.log10(Math.max(10, ...positive))));
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  return { ticks, place: (value) => (Math.log10(value) - low) / (high - low) };
}

const labels = (tick) => (tick >= 1000 ? `${+(tick / 1000).toPrecision(3)}k` : `${+tick.toPrecision(3)}`);

export class LineChart {
  // `lines`: [{name, className, column}] of rows [at, …]; `format` writes a value.
  constructor({ title, unit, lines, format, decades = false }) {
    this.lines = lines;
    this.format = format;
    this.decades = decades;
    this.rows = [];
    this.svg = shape("svg", { height: HEIGHT, role: "img", "aria-label": `${title}, ${unit}` });
    this.figures = lines.map(() => element("b"));
    this.when = element("span", { class: "when" });
    const legend = element("p", { class: "legend" });
    lines.forEach((line, place) => {
      const swatch = element("i", { class: `swatch ${line.className}`, "aria-hidden": "true" });
      legend.append(element("span", {}, swatch, line.name, " ", this.figures[place]));
    });
    legend.append(this.when);
    const caption = element("figcaption", {}, title, " ", element("small", {}, unit));
    this.figure = element("figure", { class: "chart" }, caption, legend, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => {
      this.pointed = undefined;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  update(rows) {
    this.rows = rows;
    this.draw();
  }

  point(event) {
    const { left, width } = this.svg.getBoundingClientRect();
    const inner = (event.clientX - left - LEFT) / (width - LEFT - RIGHT);
    this.pointed = Math.min(Math.max(inner, 0), 1);
    this.draw();
  }

  draw() {
    const width = this.figure.clientWidth;
    if (!width || !this.rows.length) return;
    const now = this.rows[this.rows.length - 1][0];
    const age = now - this.rows[0][0];
    this.span = SPANS.find((span) => span >= age) ?? SPANS.at(-1);
    const x = (at) => LEFT + (1 - (now - at) / this.span) * (width - LEFT - RIGHT);
    const rows = this.rows.filter((row) => now - row[0] <= this.span);
    const values = rows.flatMap((row) => this.lines.map((line) => row[line.column]));
    const told = values.filter((value) => value !== null);
    const scale = this.decades ? decadeScale(told) : linearScale(told);
    const y = (value) => TOP + (1 - scale.place(value)) * (HEIGHT - TOP - BOTTOM);
    const drawn = [...this.axes(scale, y, width)];
    for (const line of this.lines) {
      drawn.push(shape("path", { class: `line ${line.className}`, d: trace(rows, line.column, x, y) }));
    }
    const shown = this.shown(rows, now);
    if (this.pointed !== undefined && shown) {
      const at = x(shown[0]);
      drawn.push(shape("line", { class: "crosshair", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.svg.setAttribute("width", width);
    this.svg.replaceChildren(...drawn);
    this.tell(shown, now);
  }

  *axes(scale, y, width) {
    for (const tick of scale.ticks) {
      const at = y(tick);
      yield shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at });
      yield shape("text", { class: "tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, labels(tick));
    }
    const steps = width < 420 ? 2 : 4;
    for (let step = 0; step <= steps; step += 1) {
      const back = (step * this.span) / steps;
      const at = LEFT + (1 - step / steps) * (width - LEFT - RIGHT);
      const anchor = step === 0 ? "end" : step === steps ? "start" : "middle";
      yield shape("text", { class: "tick", x: at, y: HEIGHT - 5, "text-anchor": anchor }, ago(back));
    }
  }

  // The second to tell: the one under the pointer, else the last in which something happened.
  shown(rows, now) {
    if (this.pointed === undefined) {
      const column = this.lines[0].column;
      return rows.findLast((row) => row[column] !== null && now - row[0] < 10) ?? null;
    }
    const wanted = now - (1 - this.pointed) * this.span;
    const near = rows.filter((row) => Math.abs(row[0] - wanted) < 2);
    return near.sort((a, b) => Math.abs(a[0] - wanted) - Math.abs(b[0] - wanted))[0] ?? null;
  }

  tell(row, now) {
    this.lines.forEach((line, place) => {
      const value = row ? row[line.column] : null;
      write(this.figures[place], value === null ? "–" : this.format(value));
    });
    const back = row ? Math.round(now - row[0]) : 0;
    write(this.when, this.pointed !== undefined && row ? `${back} s ago` : "");
  }
}

function ago(seconds) {
  if (seconds === 0) return "now";
  const minutes = Math.floor(seconds / 60);
  const rest = String(Math.round(seconds % 60)).padStart(2, "0");
  return `−${minutes}:${rest}`;
}

function trace(rows, column, x, y) {
  let path = "";
  let pen = false;
  for (const row of rows) {
    const value = row[column];
    if (value === null || value < 0) {
      pen = false;
      continue;
    }
    const point = `${x(row[0]).toFixed(1)} ${y(value).toFixed(1)}`;
    path += pen ? `L${point}` : `M${point}h0`; // h0: a lonely second is a dot
    pen = true;
  }
  return path;
}
