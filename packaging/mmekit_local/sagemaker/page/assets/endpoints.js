// Endpoints, their variants, instances and models.

import { LineChart } from "./charts.js";
import { Overview } from "./overview.js";
import { SortedTable } from "./tables.js";
import { age, arrange, bytes, clock, count, element, keyOf, milliseconds, rate, share, write } from "./text.js";

const KEPT_SECONDS = 300;
const SHOWN_RESTING = 200;
const [RATE, ERRORS, P50, P95, P99] = [1, 2, 3, 4, 5];

export class EndpointList {
  // `take` is called with an endpoint's key and a target model that somebody has chosen.
  constructor(document, changed, take) {
    this.list = document.getElementById("endpoints");
    this.empty = document.getElementById("no-endpoints");
    this.overview = new Overview(document, changed);
    this.take = take;
    this.histories = new Map();
    this.resting = new Map();
    this.endpoints = [];
  }

  // Takes what the server tells each second.
  hear(endpoints) {
    this.endpoints = endpoints;
    for (const endpoint of endpoints)
      for (const variant of endpoint.variants) this.remember(endpoint, variant);
    const known = new Set(endpoints.flatMap((one) => one.variants.map((each) => placeOf(one, each))));
    for (const place of this.histories.keys()) if (!known.has(place)) this.histories.delete(place);
  }

  // A greeting brings all seconds, a second later comes one: take what is newer than the last.
  remember(endpoint, variant) {
    const place = placeOf(endpoint, variant);
    const former = variant.seconds.length > 1 ? [] : (this.histories.get(place) ?? []);
    const last = former.at(-1)?.[0] ?? 0;
    const seconds = [...former, ...variant.seconds.filter((second) => second[0] > last)];
    this.histories.set(place, seconds.slice(-KEPT_SECONDS));
  }

  // Takes what is in S3 and not in memory.
  hearStored(endpoints) {
    this.resting = new Map(endpoints.map((told) => [keyOf(told), told]));
  }

  update() {
    this.empty.hidden = this.endpoints.length > 0;
    const rows = this.endpoints.map((endpoint) => this.row(endpoint)).filter((row) => row.shown);
    this.overview.update(rows, this.endpoints.length);
    const open = rows.filter((row) => row.open);
    arrange(this.list, open, (row) => row.key, () => new EndpointView().node);
  }

  // Says of an endpoint what the overview tells, and what matches the filter.
  row(endpoint) {
    const key = keyOf(endpoint);
    const stored = this.resting.get(key) ?? { stored: 0, resting: 0, targets: [] };
    const row = { key, endpoint, name: endpoint.name, status: endpoint.status };
    const instances = endpoint.variants.flatMap((variant) => variant.instances);
    const models = instances.flatMap((instance) => instance.models);
    const total = (of) => endpoint.variants.reduce((sum, variant) => sum + variant.totals[of], 0);
    const recent = endpoint.variants.map((variant) =>
      (this.histories.get(placeOf(endpoint, variant)) ?? []).slice(-10),
    );
    row.loaded = instances.reduce((sum, instance) => sum + instance.loaded, 0);
    row.parked = models.filter((model) => model.state === "parked").length;
    row.stored = stored.stored;
    row.memory = instances.reduce((sum, one) => (one.memory === null ? sum : (sum ?? 0) + one.memory), null);
    row.rate = recent.reduce((sum, seconds) => sum + perSecond(seconds), 0);
    row.p99 = recent.reduce((most, seconds) => larger(most, seconds.at(-1)?.[P99]), null);
    for (const name of ["hits", "lookups", "errors"]) row[name] = total(name);
    row.histories = this.histories;
    row.take = (target) => this.take(key, target);
    row.article = () => [...this.list.children].find((node) => node.view?.key === key);
    this.filter(row, models, stored);
    return row;
  }

  filter(row, models, stored) {
    const { overview } = this;
    const named = overview.matches(row.name);
    const matches = (target) => named || overview.matches(target);
    row.matches = matches;
    const inMemory = new Set(models.map((model) => model.target));
    const resting = stored.targets.filter((target) => !inMemory.has(target) && matches(target));
    row.resting = { targets: resting, unnamed: named ? stored.resting - stored.targets.length : 0 };
    const found = [...inMemory].filter(matches).length + resting.length;
    row.matching = named ? 0 : found;
    row.shown = named || found > 0;
  }
}

function placeOf(endpoint, variant) {
  return `${keyOf(endpoint)}/${variant.name}`;
}

function perSecond(seconds) {
  return seconds.reduce((sum, row) => sum + row[RATE], 0) / Math.max(seconds.length, 1);
}

function larger(one, other) {
  return other === null || other === undefined ? one : Math.max(one ?? 0, other);
}

class EndpointView {
  constructor() {
    this.name = element("h2");
    this.status = element("span", { class: "pill" });
    this.fold = element("button", { type: "button", class: "fold" }, "Fold");
    this.fold.addEventListener("click", () => this.row.overview.toggle(this.row.key));
    this.about = element("p", { class: "about" });
    this.reason = element("p", { class: "reason" });
    this.variants = element("div");
    this.resting = new RestingModels();
    const head = element("header", {}, this.name, this.status, this.fold);
    this.node = element("article", { class: "card" }, head, this.about, this.reason);
    this.node.append(this.variants, this.resting.node);
    this.node.view = this;
  }

  update(row) {
    const { endpoint } = row;
    this.row = row;
    this.fold.setAttribute("aria-label", `Fold ${endpoint.name}`);
    write(this.name, endpoint.name);
    write(this.status, endpoint.status);
    this.status.dataset.status = endpoint.status;
    write(this.about, `config ${endpoint.config} · ${endpoint.region} · account ${endpoint.account}`);
    write(this.reason, endpoint.reason ?? "");
    this.reason.hidden = !endpoint.reason;
    const variants = endpoint.variants.map((variant) => {
      const history = row.histories.get(placeOf(endpoint, variant)) ?? [];
      return { ...variant, history, matches: row.matches };
    });
    arrange(this.variants, variants, (variant) => variant.name, () => new VariantView().node);
    this.resting.update(row);
  }
}

// What is in S3 and in no instance's memory: the first request would load it.
class RestingModels {
  constructor() {
    this.title = element("summary");
    this.list = element("ul", { class: "resting" });
    this.hint = element("p", { class: "hint" });
    this.node = element("details", { class: "variant" }, this.title, this.list, this.hint);
  }

  update({ resting, take }) {
    const { targets, unnamed } = resting;
    this.node.hidden = targets.length + unnamed === 0;
    write(this.title, `In S3 and not in memory: ${count(targets.length + unnamed)}`);
    if (!this.node.open) return;
    const shown = targets.slice(0, SHOWN_RESTING);
    arrange(this.list, shown.map((target) => ({ target, take })), (one) => one.target, () => new RestingModel().node);
    const left = targets.length + unnamed - shown.length;
    write(this.hint, left ? `${count(left)} more are not listed; the filter finds them.` : "");
  }
}

class RestingModel {
  constructor() {
    this.button = element("button", { type: "button", class: "target" });
    this.button.addEventListener("click", () => this.take(this.target));
    this.node = element("li", {}, this.button);
    this.node.view = this;
  }

  update({ target, take }) {
    Object.assign(this, { target, take });
    write(this.button, target);
  }
}

class VariantView {
  constructor() {
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
    this.figures.update(variant, variant.history);
    this.latency.update(variant.history);
    this.throughput.update(variant.history);
    this.instances.update(variant.instances);
    this.models.update(variant);
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
    const last = recent.findLast((row) => row[P50] !== null);
    const told = {
      "requests/s": rate(perSecond(recent)),
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
    this.variant = { instances: [], matches: () => true };
    this.count = element("span", { class: "about" });
    this.hint = element("p", { class: "hint" });
    this.sorted = new SortedTable(COLUMNS, 4, () => this.update(this.variant), { class: "models" });
    this.table = scrolling("Loaded models", this.sorted.node);
    const title = element("h4", {}, "Loaded models ", this.count);
    this.node = element("div", {}, title, this.table, this.hint);
  }

  update(variant) {
    this.variant = variant;
    const all = variant.instances.flatMap((instance) =>
      instance.models.map((model) => ({ ...model, instance: instance.label.split("/").at(-1) })),
    );
    const rows = all.filter((row) => variant.matches(row.target));
    this.sorted.sort(rows, (row) => row.target);
    const largest = Math.max(1, ...rows.map((row) => row.memory ?? 0));
    for (const row of rows) row.largest = largest;
    const keyed = (row) => `${row.instance}/${row.target}`;
    arrange(this.sorted.rows, rows, keyed, () => new ModelRow().node);
    this.tell(variant, all, rows);
  }

  tell(variant, all, rows) {
    const total = (member) => variant.instances.reduce((sum, instance) => sum + instance[member], 0);
    const resting = total("onDisk") ? `, ${count(total("onDisk"))} more on disk` : "";
    const loaded = count(total("loaded"));
    const shown = rows.length < all.length ? `${count(rows.length)} of ${loaded}` : loaded;
    write(this.count, `${shown}${resting}`);
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
