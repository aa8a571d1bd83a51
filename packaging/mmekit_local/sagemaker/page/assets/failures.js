// What has failed, by cause: counted by the server for as long as the endpoint is there.

import { arrange, clock, count, element, keyOf, write } from "./text.js";

const SHOWN = 50;

export class Failures {
  constructor(document) {
    this.list = document.getElementById("errors");
    this.hint = document.getElementById("no-errors");
    this.told = document.getElementById("errors-count");
    this.endpoints = new Map();
  }

  clear() {
    this.endpoints.clear();
  }

  // Takes the causes that have changed.
  take(endpoints) {
    for (const told of endpoints) {
      const key = keyOf(told);
      let known = this.endpoints.get(key);
      if (known?.generation !== told.generation) {
        known = { generation: told.generation, name: told.name, groups: new Map() };
        this.endpoints.set(key, known);
      }
      known.leftOut = told.leftOut;
      for (const group of told.groups) known.groups.set(group.number, group);
    }
  }

  // Forgets those of endpoints that are gone, and shows those that match.
  update(keys, overview) {
    for (const key of this.endpoints.keys()) if (!keys.has(key)) this.endpoints.delete(key);
    const all = [...this.endpoints].flatMap(([key, { name, groups }]) =>
      [...groups.values()].map((group) => ({ ...group, key, endpoint: name })),
    );
    const matching = all.filter((one) =>
      overview.matches(one.endpoint, one.target, one.cause, one.example),
    );
    matching.sort((a, b) => b.last - a.last || b.number - a.number);
    // The nodes of known causes stay, so that what is unfolded or selected stays so.
    arrange(this.list, matching.slice(0, SHOWN), (one) => `${one.number}`, () => new Group().node);
    const failures = matching.reduce((sum, one) => sum + one.count, 0);
    let text = matching.length ? `${count(failures)}, of ${causes(matching.length)}` : "";
    if (matching.length > SHOWN) text += `, the last ${SHOWN} shown`;
    const leftOut = [...this.endpoints.values()].reduce((sum, one) => sum + one.leftOut, 0);
    if (leftOut) text += `; ${count(leftOut)} older ones are only counted`;
    write(this.told, text);
    this.hint.hidden = all.length > 0;
  }
}

function causes(number) {
  return number === 1 ? "one cause" : `${count(number)} causes`;
}

class Group {
  constructor() {
    this.last = element("time");
    this.times = element("span", { class: "kind", "data-kind": "error" });
    this.status = element("span", { class: "took" });
    this.target = element("code");
    this.where = element("span", { class: "where" });
    this.cause = element("p", { class: "cause" });
    this.example = element("p", { class: "cause" });
    const head = element("p", { class: "head" }, this.last, this.times, this.status);
    const what = element("p", { class: "what" }, this.target, " ", this.where);
    const more = element("details", {}, element("summary", {}, "the latest, as it was said"), this.example);
    this.node = element("li", {}, head, what, this.cause, more);
    this.node.view = this;
  }

  update(group) {
    this.last.dateTime = new Date(group.last * 1000).toISOString();
    write(this.last, clock(group.last));
    const since = `${count(group.count)} times since ${clock(group.first)}`;
    write(this.times, group.count === 1 ? "once" : since);
    write(this.status, group.status === null ? "" : `${group.status}`);
    write(this.target, group.target);
    const others = group.targets - 1;
    const noun = others === 1 ? "another model" : `${count(others)} other models`;
    write(this.where, others > 0 ? `and ${noun} · ${group.endpoint}` : group.endpoint);
    write(this.cause, group.cause);
    write(this.example, group.example);
  }
}
