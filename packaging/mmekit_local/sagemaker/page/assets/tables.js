// Tables whose columns are sorted by a click on their head.

import { element } from "./text.js";

const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

// columns: { name, kind, value }, of which `value` takes a row and returns what to sort by.
export class SortedTable {
  constructor(columns, by, changed, attributes = {}) {
    this.columns = columns;
    this.by = by;
    this.direction = 1;
    this.rows = element("tbody");
    const head = element("tr");
    this.heads = columns.map((column, place) => {
      const button = element("button", { type: "button" }, column.name);
      button.addEventListener("click", () => {
        this.direction = this.by === place ? -this.direction : 1;
        this.by = place;
        changed();
      });
      const cell = element("th", { scope: "col", class: column.kind }, button);
      head.append(cell);
      return cell;
    });
    this.node = element("table", attributes, element("thead", {}, head), this.rows);
  }

  // Sorts rows in place; those that are alike by their names.
  sort(rows, nameOf) {
    const { value } = this.columns[this.by];
    rows.sort((a, b) => this.direction * order(value(a), value(b)) || order(nameOf(a), nameOf(b)));
    this.heads.forEach((cell, place) => {
      const direction = this.direction > 0 ? "ascending" : "descending";
      cell.setAttribute("aria-sort", place === this.by ? direction : "none");
    });
  }
}
