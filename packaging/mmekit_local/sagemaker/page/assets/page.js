// Listens to what the server tells and hands it to the parts of the page.

import { EndpointList } from "./endpoints.js";
import { Events } from "./events.js";
import { Failures } from "./failures.js";
import { InvokeForm } from "./form.js";
import { clock, keyOf, write } from "./text.js";

const SILENCE_MS = 5000; // the server tells something each second

const connection = document.getElementById("connection");
const stale = document.getElementById("stale");
const events = new Events(document);
const failures = new Failures(document);
const form = new InvokeForm(document);
const endpoints = new EndpointList(document, draw, (key, target) => form.take(key, target));
let told = 0;

write(document.getElementById("address"), location.origin);
write(
  document.getElementById("first-steps"),
  `export AWS_ENDPOINT_URL=${location.origin}
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
export AWS_DEFAULT_REGION=us-east-1`,
);

function draw() {
  endpoints.update();
  failures.update(new Set(endpoints.endpoints.map(keyOf)), endpoints.overview);
}

// What is shown is dimmed as soon as it may be wrong, and as long as it may.
function say(state, text) {
  connection.dataset.state = state;
  write(connection, text);
  const isStale = state === "lost" && told > 0;
  document.body.classList.toggle("is-stale", isStale);
  stale.hidden = !isStale;
  if (isStale) write(stale, `This is how it was at ${clock(told / 1000)}. The server is not heard since.`);
}

function heard() {
  told = Date.now();
  if (connection.dataset.state !== "live") say("live", "live");
}

function listen() {
  const source = new EventSource("events");
  const hear = (name, take) =>
    source.addEventListener(name, (message) => {
      heard();
      take(JSON.parse(message.data));
    });
  hear("state", (state) => {
    if (state.token) {
      form.token = state.token; // a server that was started anew has another
      failures.clear(); // and all of them follow
    }
    endpoints.hear(state.endpoints);
    form.update(state.endpoints);
    if (!state.token) draw();
  });
  hear("stored", (state) => {
    endpoints.hearStored(state.endpoints);
    form.resting = endpoints.resting;
    form.choose();
  });
  hear("failures", (state) => {
    failures.take(state.endpoints);
    draw();
  });
  hear("event", (event) => events.add(event));
  source.addEventListener("error", () => {
    say("lost", "not connected, trying again");
    // A refusal ends an EventSource for good; a broken connection does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

// A connection that is open and brings nothing is no better than none.
setInterval(() => {
  if (connection.dataset.state === "live" && Date.now() - told > SILENCE_MS)
    say("lost", "the server says nothing");
}, 1000);

listen();
