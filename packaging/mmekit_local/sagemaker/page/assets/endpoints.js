// Endpoints, their variants, instances and models.

import { LineChart } from "./charts.js";
import { age, arrange, bytes, clock, count, element, milliseconds, rate, share, write } from "./text.js";

const KEPT_SECONDS = 300;
const [RATE, ERRORS, P50, P95, P99] = [1, 2, 3, 4, 5];

export class EndpointList {
  constructor(document) {
    this.list = document.getElementById("endpoints");
    this.empty = document.getElementById("no-endpoints");
  }

  update(endpoints) {
    this.empty.hidden = endpoints.length > 0;
    const keyOf = (endpoint) => `${endpoint.account}/${endpoint.region}/${endpoint.name}`;
    arrange(this.list, endpoints, keyOf, () => new EndpointView().node);
  }
}

class EndpointView {
  constructor() {
    this.name = element("h2");
    this.status = element("span", { class: "pill" });
    this.about = element("p", { class: "about" });
    this.reason = element("p", { class: "reason" });
    this.variants = element("div");
    const head = element("header", {}, this.name, this.status);
    this.node = element("article", { class: "card" }, head, this.about, this.reason, this.variants);
    this.node.view = this;
  }

  update(endpoint) {
    write(this.name, endpoint.name);
    write(this.status, endpoint.status);
    this.status.dataset.status = endpoint.status;
    write(this.about, `config ${endpoint.config} · ${endpoint.region} · account ${endpoint.account}`);
    write(this.reason, endpoint.reason ?? "");
    this.reason.hidden = !endpoint.reason;
    arrange(this.variants, endpoint.variants, (variant) => variant.name, () => new VariantView().node);
  }
}

class VariantView {
  constructor() {
    this.seconds = [];
    this.name = element("h3");
    this.about = element("p", { class: "about" });
    this.figures = new Figures();
    this.latency = new LineChart({
      title: "Latency",
      unit: "ms over ten seconds, logarithmic",
      format: milliseconds,
      decades: true,
      lines: [
        { name: "p50", className: "first", column: P50 },
        { name: "p95", className: "second", column: P95 },
        { name: "p99", className: "third", column: P99 },
      ],
    });
    this.throughput = new LineChart({
      title: "Throughput",
      unit: "requests a second",
      format: rate,
      lines: [
        { name: "requests", className: "first", column: RATE },
        { name: "errors", className: "bad", column: ERRORS },
      ],
    });
    const charts = element("div", { class: "charts" }, this.latency.figure, this.throughput.figure);
    this.instances = new InstanceTable();
    this.models = new ModelTable();
    this.node = element("section", { class: "variant" });
    this.node.append(this.name, this.about, this.figures.node, charts);
    this.node.append(this.instances.node, this.models.node);
    this.node.view = this;
  }

  update(variant) {
    const kind = variant.multiModel ? "multi-model" : "single model";
    const type = variant.instanceType ?? "serverless";
    write(this.name, variant.name);
    write(this.about, `${kind} · ${type} · weight ${variant.weight}`);
    this.remember(variant.seconds);
    this.figures.update(variant, this.seconds);
    this.latency.update(this.seconds);
    this.throughput.update(this.seconds);
    this.instances.update(variant.instances);
    this.models.update(variant);
  }

  // A greeting brings all seconds, a second later comes one: take what is newer than the last.
  remember(seconds) {
    if (seconds.length > 1) this.seconds = [];
    const last = this.seconds.at(-1)?.[0] ?? 0;
    this.seconds.push(...seconds.filter((second) => second[0] > last));
    this.seconds = this.seconds.slice(-KEPT_SECONDS);
  }
}

class Figures {
  constructor() {
    this.values = new Map();
    this.node = element("dl", { class: "figures" });
    for (const name of ["requests/s", "p50", "p99", "cache hits", "cold loads", "evictions", "errors"]) {
      const value = element("dd");
      this.values.set(name, value);
      this.node.append(element("div", {}, element("dt", {}, name), value));
    }
  }

  update({ totals }, seconds) {
    const recent = seconds.slice(-10);
    const perSecond = recent.reduce((sum, row) => sum + row[RATE], 0) / Math.max(recent.length, 1);
    const last = recent.findLast((row) => row[P50] !== null);
    const told = {
      "requests/s": rate(perSecond),
      p50: milliseconds(last?.[P50]),
      p99: milliseconds(last?.[P99]),
      "cache hits": share(totals.hits, totals.lookups),
      "cold loads": count(totals.coldLoads),
      evictions: count(totals.evictions),
      errors: count(totals.errors),
    };
    for (const [name, text] of Object.entries(told)) write(this.values.get(name), text);
    this.values.get("errors").dataset.mood = totals.errors ? "bad" : "";
  }
}

// A bar and its words; the words say it all, so the bar is hidden from screen readers.
class Bar {
  constructor() {
    this.fill = element("i");
    this.text = element("span");
    this.node = element("div", { class: "measure" }, this.text);
    this.track = element("div", { class: "bar", "aria-hidden": "true" }, this.fill);
    this.node.append(this.track);
  }

  update(part, all, text) {
    const width = part === null || !all ? 0 : Math.min(100, (100 * part) / all);
    this.fill.style.width = `${width.toFixed(1)}%`;
    this.fill.dataset.full = width > 90;
    this.track.hidden = part === null || !all;
    write(this.text, text);
  }
}

function of(part, all) {
  return all === null ? bytes(part) : `${bytes(part)} of ${bytes(all)}`;
}

function scrolling(label, table) {
  return element("div", { class: "scrolling", role: "region", tabindex: "0", "aria-label": label }, table);
}

class InstanceTable {
  constructor() {
    this.rows = element("tbody");
    const head = element("tr");
    for (const [name, kind] of [
      ["Instance", ""], ["Memory", ""], ["Disk", "minor"], ["CPU", "number"], ["In flight", "number minor"],
    ]) {
      head.append(element("th", { scope: "col", class: kind }, name));
    }
    const table = element("table", {}, element("thead", {}, head), this.rows);
    this.node = element("div", {}, element("h4", {}, "Instances"), scrolling("Instances", table));
  }

  update(instances) {
    arrange(this.rows, instances, (instance) => instance.label, () => new InstanceRow().node);
  }
}

class InstanceRow {
  constructor() {
    this.label = element("b");
    this.state = element("span", { class: "state" });
    this.memory = new Bar();
    this.disk = new Bar();
    this.cpu = element("td", { class: "number" });
    this.inFlight = element("td", { class: "number minor" });
    this.node = element("tr", {}, element("th", { scope: "row" }, this.label, this.state));
    this.node.append(element("td", {}, this.memory.node));
    this.node.append(element("td", { class: "minor" }, this.disk.node), this.cpu, this.inFlight);
    this.node.view = this;
  }

  update(instance) {
    write(this.label, instance.label.split("/").slice(1).join("/"));
    write(this.state, instance.state);
    this.state.dataset.state = instance.state;
    this.memory.update(instance.memory, instance.memoryLimit, of(instance.memory, instance.memoryLimit));
    this.disk.update(instance.disk, instance.diskLimit, of(instance.disk, instance.diskLimit));
    write(this.cpu, `${Math.round(instance.cpu)} %`);
    write(this.inFlight, count(instance.inFlight));
  }
}

const COLUMNS = [
  { name: "Model", kind: "", value: (row) => row.target },
  { name: "Instance", kind: "minor", value: (row) => row.instance },
  { name: "Memory", kind: "", value: (row) => row.memory ?? -1 },
  { name: "Age", kind: "number minor", value: (row) => row.age },
  { name: "Idle", kind: "number", value: (row) => row.idle },
  { name: "Requests", kind: "number", value: (row) => row.invocations },
];

class ModelTable {
  constructor() {
    this.by = 4;
    this.direction = 1;
    this.variant = { instances: [] };
    this.count = element("span", { class: "about" });
    this.rows = element("tbody");
    this.hint = element("p", { class: "hint" });
    const head = element("tr");
    this.heads = COLUMNS.map((column, place) => {
      const button = element("button", { type: "button" }, column.name);
      button.addEventListener("click", () => this.sort(place));
      const cell = element("th", { scope: "col", class: column.kind }, button);
      head.append(cell);
      return cell;
    });
    const table = element("table", { class: "models" }, element("thead", {}, head), this.rows);
    this.table = scrolling("Loaded models", table);
    const title = element("h4", {}, "Loaded models ", this.count);
    this.node = element("div", {}, title, this.table, this.hint);
  }

  sort(place) {
    this.direction = this.by === place ? -this.direction : 1;
    this.by = place;
    this.update(this.variant);
  }

  update(variant) {
    this.variant = variant;
    const rows = variant.instances.flatMap((instance) =>
      instance.models.map((model) => ({ ...model, instance: instance.label.split("/").at(-1) })),
    );
    const value = COLUMNS[this.by].value;
    const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    rows.sort((a, b) => this.direction * order(value(a), value(b)) || order(a.target, b.target));
    const largest = Math.max(1, ...rows.map((row) => row.memory ?? 0));
    for (const row of rows) row.largest = largest;
    arrange(this.rows, rows, (row) => `${row.instance}/${row.target}`, () => new ModelRow().node);
    this.heads.forEach((cell, place) => {
      const direction = this.direction > 0 ? "ascending" : "descending";
      cell.setAttribute("aria-sort", place === this.by ? direction : "none");
    });
    this.tell(variant, rows);
  }

  tell(variant, rows) {
    const total = (member) => variant.instances.reduce((sum, instance) => sum + instance[member], 0);
    const resting = total("onDisk") ? `, ${count(total("onDisk"))} more on disk` : "";
    write(this.count, `${count(total("loaded"))}${resting}`);
    this.table.hidden = rows.length === 0;
    const unlisted = total("loaded") - rows.length;
    const hint = rows.length
      ? `The ${count(unlisted)} that rested longest are not listed.`
      : "Nothing is in memory. The first request to a model downloads and loads it: try the form.";
    write(this.hint, hint);
    this.hint.hidden = rows.length > 0 && unlisted === 0;
  }
}

// A container that knows no parking tells of no wakes.
function stateOf(row) {
  const since = row.state === "parked" ? ` since ${clock(row.parkedAt)}` : "";
  const times = row.wakes === 1 ? "once" : `${count(row.wakes ?? 0)} times`;
  const woken = row.wakes ? `woken ${times}` : "";
  return [row.state === "loaded" ? "" : row.state + since, woken].filter(Boolean).join(", ");
}

class ModelRow {
  constructor() {
    this.target = element("span", { class: "target" });
    this.state = element("span", { class: "state" });
    this.instance = element("td", { class: "minor" });
    this.memory = new Bar();
    this.age = element("td", { class: "number minor" });
    this.idle = element("td", { class: "number" });
    this.requests = element("td", { class: "number" });
    this.node = element("tr", {}, element("th", { scope: "row" }, this.target, this.state));
    this.node.append(this.instance, element("td", {}, this.memory.node));
    this.node.append(this.age, this.idle, this.requests);
    this.node.view = this;
  }

  update(row) {
    write(this.target, row.target || "the only model");
    write(this.state, stateOf(row));
    this.state.dataset.state = row.state;
    write(this.instance, row.instance);
    this.memory.update(row.memory, row.largest, bytes(row.memory));
    write(this.age, row.state === "loading" ? "–" : age(row.age));
    write(this.idle, row.state === "loading" ? "–" : age(row.idle));
    write(this.requests, count(row.invocations));
  }
}
