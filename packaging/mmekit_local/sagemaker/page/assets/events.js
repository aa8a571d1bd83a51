// The event_log: errors with their cause, and everything else that happened, newest first.

import { clock, element, milliseconds } from "./text.js";

const SHOWN = { errors: 20, happened: 40 };

export class Events {
  constructor(document) {
    this.last = 0;
    this.lists = {
      errors: [document.getElementById("errors"), document.getElementById("no-errors")],
      happened: [document.getElementById("happened"), document.getElementById("nothing-happened")],
    };
  }

  add(event) {
    if (event.number <= this.last) this.clear(); // another server runs here now
    this.last = event.number;
    const kind = event.kind === "error" ? "errors" : "happened";
    const [list, hint] = this.lists[kind];
    list.prepend(item(event));
    while (list.children.length > SHOWN[kind]) list.lastElementChild.remove();
    hint.hidden = true;
  }

  clear() {
    for (const [list, hint] of Object.values(this.lists)) {
      list.replaceChildren();
      hint.hidden = false;
    }
  }
}

function item(event) {
  const at = new Date(event.at * 1000);
  const head = element("p", { class: "head" });
  head.append(element("time", { datetime: at.toISOString() }, clock(event.at)));
  head.append(element("span", { class: "kind", "data-kind": event.kind }, event.kind));
  if (event.milliseconds !== null) {
    head.append(element("span", { class: "took" }, milliseconds(event.milliseconds)));
  }
  const what = element("p", { class: "what" });
  if (event.target) what.append(element("code", {}, event.target), " ");
  what.append(element("span", { class: "where" }, event.where));
  return element("li", {}, head, what, element("p", { class: "cause" }, event.text));
}
