// What happened beside errors, newest first.

import { clock, element, milliseconds } from "./text.js";

const SHOWN = 40;

export class Events {
  constructor(document) {
    this.last = 0;
    this.list = document.getElementById("happened");
    this.hint = document.getElementById("nothing-happened");
  }

  add(event) {
    if (event.number <= this.last) this.clear(); // another server runs here now
    this.last = event.number;
    if (event.kind === "error") return; // they are counted by their cause
    this.list.prepend(item(event));
    while (this.list.children.length > SHOWN) this.list.lastElementChild.remove();
    this.hint.hidden = true;
  }

  clear() {
    this.list.replaceChildren();
    this.hint.hidden = false;
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
