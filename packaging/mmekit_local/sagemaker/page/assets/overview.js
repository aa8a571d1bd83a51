// All endpoints in one table, and which of them are unfolded below it.

import { SortedTable } from "./tables.js";
import { arrange, bytes, count, element, milliseconds, rate, share, write } from "./text.js";

const FEW = 3; // so many are unfolded by themselves

const COLUMNS = [
  { name: "Endpoint", kind: "", value: (row) => row.name },
  { name: "Loaded", kind: "number", value: (row) => row.loaded },
  { name: "In S3", kind: "number minor", value: (row) => row.stored },
  { name: "Memory", kind: "number minor", value: (row) => row.memory ?? -1 },
  { name: "Requests/s", kind: "number minor", value: (row) => row.rate },
  { name: "p99", kind: "number", value: (row) => row.p99 ?? -1 },
  { name: "Cache hits", kind: "number minor", value: (row) => (row.lookups ? row.hits / row.lookups : -1) },
  { name: "Errors", kind: "number", value: (row) => row.errors },
];

export class Overview {
  // `changed` is called when somebody folds, unfolds, filters or sorts.
  constructor(document, changed) {
    this.changed = changed;
    this.card = document.getElementById("overview");
    this.filter = document.getElementById("filter");
    this.told = document.getElementById("overview-count");
    this.place = document.getElementById("overview-table");
    this.table = new SortedTable(COLUMNS, 0, changed, { class: "overview" });
    this.place.append(this.table.node);
    this.chosen = new Map();
    this.few = true;
    this.filter.addEventListener("input", changed);
    document.getElementById("filtering").addEventListener("submit", (event) => event.preventDefault());
  }

  get text() {
    return this.filter.value.trim().toLowerCase();
  }

  matches(...texts) {
    return texts.some((text) => text.toLowerCase().includes(this.text));
  }

  isOpen(key) {
    return this.chosen.get(key) ?? this.few;
  }

  toggle(key) {
    this.chosen.set(key, !this.isOpen(key));
    this.changed();
  }

  // Shows those of `rows` that match; `total` counts all endpoints.
  update(rows, total) {
    this.card.hidden = total === 0;
    this.few = rows.length <= FEW;
    this.place.hidden = rows.length === 0 || total === 1;
    this.card.parentElement.classList.toggle("many", total > 1);
    this.table.sort(rows, (row) => row.key);
    for (const row of rows) {
      row.open = this.isOpen(row.key);
      row.overview = this;
    }
    arrange(this.table.rows, rows, (row) => row.key, () => new OverviewRow().node);
    const loaded = rows.reduce((sum, row) => sum + row.loaded, 0);
    const stored = rows.reduce((sum, row) => sum + row.stored, 0);
    const shown = rows.length === total ? count(total) : `${count(rows.length)} of ${count(total)}`;
    const noun = total === 1 ? "endpoint" : "endpoints";
    write(this.told, `${shown} ${noun}, ${count(loaded)} models in memory, ${count(stored)} in S3`);
  }
}

class OverviewRow {
  constructor() {
    this.button = element("button", { type: "button", class: "unfold" });
    this.button.addEventListener("click", () => {
      const opens = !this.row.open;
      this.row.overview.toggle(this.row.key);
      if (opens) this.row.article().scrollIntoView({ block: "start" });
    });
    this.status = element("span", { class: "state" });
    this.match = element("span", { class: "about" });
    this.cells = COLUMNS.slice(1).map((column) => element("td", { class: column.kind }));
    const head = element("th", { scope: "row" }, this.button, this.status, this.match);
    this.node = element("tr", {}, head, ...this.cells);
    this.node.view = this;
  }

  update(row) {
    this.row = row;
    write(this.button, row.name);
    this.button.setAttribute("aria-expanded", row.open);
    write(this.status, row.status === "InService" ? "" : row.status);
    const noun = row.matching === 1 ? "model matches" : "models match";
    write(this.match, row.matching ? ` ${count(row.matching)} ${noun}` : "");
    const texts = [
      row.parked ? `${count(row.loaded)}, ${count(row.parked)} parked` : count(row.loaded),
      count(row.stored),
      bytes(row.memory),
      rate(row.rate),
      milliseconds(row.p99),
      share(row.hits, row.lookups),
      count(row.errors),
    ];
    texts.forEach((text, place) => write(this.cells[place], text));
    this.cells.at(-1).dataset.mood = row.errors ? "bad" : "";
  }
}
