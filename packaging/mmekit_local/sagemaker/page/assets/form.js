// The form that invokes a target model.

import { element, keyOf, milliseconds, write } from "./text.js";

const NO_SAMPLE = "The model's archive has no sample request; mme describe says what it takes.";

export class InvokeForm {
  constructor(document) {
    this.form = document.getElementById("invoke");
    this.targets = document.getElementById("known-targets");
    this.box = document.getElementById("answer");
    this.status = document.getElementById("answer-status");
    this.body = document.getElementById("answer-body");
    this.endpoints = new Map();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.invoke();
    });
    this.fields.endpoint.addEventListener("change", () => {
      this.choose();
      this.fill();
    });
    this.fields.target.addEventListener("change", () => this.fill());
    this.about = document.getElementById("invoke-sample");
    this.filled = { contentType: "", body: "" };
    this.resting = new Map();
    this.token = "";
    this.asked = "";
  }

  get fields() {
    return this.form.elements;
  }

  get headers() {
    return { "content-type": "application/json", "x-mme-token": this.token };
  }

  update(endpoints) {
    const serving = endpoints.filter((endpoint) => endpoint.variants.length);
    const known = serving.map(keyOf).join("\n");
    this.endpoints = new Map(serving.map((endpoint) => [keyOf(endpoint), endpoint]));
    const select = this.fields.endpoint;
    if (select.dataset.known !== known) {
      const chosen = select.value;
      select.dataset.known = known;
      select.replaceChildren(
        ...serving.map((endpoint) => element("option", { value: keyOf(endpoint) }, endpoint.name)),
      );
      if (!serving.length) select.append(element("option", { value: "" }, "none in service"));
      if (this.endpoints.has(chosen)) select.value = chosen;
    }
    this.choose();
  }

  choose() {
    const endpoint = this.endpoints.get(this.fields.endpoint.value);
    const targets = new Set();
    for (const variant of endpoint?.variants ?? [])
      for (const instance of variant.instances)
        for (const model of instance.models) targets.add(model.target);
    for (const target of this.resting.get(this.fields.endpoint.value)?.targets ?? []) targets.add(target);
    const known = [...targets].sort().join("\n");
    if (this.targets.dataset.known !== known) {
      this.targets.dataset.known = known;
      this.targets.replaceChildren(
        ...[...targets].sort().map((target) => element("option", { value: target })),
      );
    }
    const single = endpoint !== undefined && !endpoint.variants.some((v) => v.multiModel);
    this.fields.target.disabled = single;
    this.fields.target.placeholder = single ? "its only model" : "model.tar.gz";
    if (single) this.fill();
  }

  // Chooses a model, as if somebody had typed it.
  take(key, target) {
    this.fields.endpoint.value = key;
    this.choose();
    this.fields.target.value = target;
    this.fill();
    this.fields.target.focus();
    this.form.scrollIntoView({ block: "nearest" });
  }

  // Puts a request that the chosen model answers into the form, unless somebody wrote one.
  async fill() {
    const endpoint = this.endpoints.get(this.fields.endpoint.value);
    const target = this.fields.target.disabled ? "" : this.fields.target.value;
    const asked = `${this.fields.endpoint.value} ${target}`;
    if (!endpoint || asked === this.asked || (!target && !this.fields.target.disabled)) return;
    this.asked = asked;
    const { account, region, name } = endpoint;
    let sample;
    try {
      const answer = await fetch("sample", {
        method: "POST",
        headers: this.headers,
        body: JSON.stringify({ account, region, endpoint: name, target }),
      });
      if (!answer.ok) return;
      sample = await answer.json();
    } catch {
      this.asked = ""; // the server is away
      return;
    }
    const { type, body } = this.fields;
    if (asked !== this.asked) return;
    const isMine = body.value !== "" && body.value !== this.filled.body;
    const has = sample.contentType !== "" || sample.body !== "";
    const known = has ? "The model's own sample request." : NO_SAMPLE;
    write(this.about, isMine ? "" : known);
    if (isMine) return;
    body.value = sample.body;
    // A type that came with another model's sample is not this one's.
    if (sample.contentType) type.value = sample.contentType;
    else if (type.value === this.filled.contentType) type.value = "application/json";
    this.filled = sample;
  }

  async invoke() {
    const endpoint = this.endpoints.get(this.fields.endpoint.value);
    this.box.hidden = false;
    if (!endpoint) {
      this.show("No endpoint is in service: create one first.", "", "bad");
      return;
    }
    const button = this.form.querySelector("button");
    button.disabled = true;
    this.show("waiting for the answer …", "", "");
    try {
      await this.ask(endpoint);
    } catch (error) {
      this.show(`The server cannot be reached: ${error.message}`, "", "bad");
    } finally {
      button.disabled = false;
    }
  }

  async ask(endpoint) {
    const answer = await fetch("invoke", {
      method: "POST",
      headers: this.headers,
      body: JSON.stringify({
        account: endpoint.account,
        region: endpoint.region,
        endpoint: endpoint.name,
        target: this.fields.target.disabled ? "" : this.fields.target.value,
        contentType: this.fields.type.value,
        body: this.fields.body.value,
      }),
    });
    if (!answer.ok) {
      this.show(`${answer.status} from this page's server`, await answer.text(), "bad");
      return;
    }
    const got = await answer.json();
    const name = got.error ? ` ${got.error}` : "";
    const text = got.encoding === "text" ? pretty(got) : `(base64) ${got.body}`;
    const mood = got.status < 400 ? "good" : "bad";
    this.show(`${got.status}${name} in ${milliseconds(got.milliseconds)}`, text, mood);
  }

  show(status, body, mood) {
    this.status.dataset.mood = mood;
    write(this.status, status);
    write(this.body, body);
    this.body.hidden = body === "";
  }
}

function pretty(answer) {
  if (!answer.contentType.includes("json")) return answer.body;
  try {
    const body = JSON.parse(answer.body);
    return answer.error ? body.message : JSON.stringify(body, null, 2);
  } catch {
    return answer.body;
  }
}
