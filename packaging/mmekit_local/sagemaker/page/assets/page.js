// Listens to what the server tells and hands it to the parts of the page.

import { EndpointList } from "./endpoints.js";
import { Events } from "./events.js";
import { InvokeForm } from "./form.js";
import { write } from "./text.js";

const connection = document.getElementById("connection");
const endpoints = new EndpointList(document);
const events = new Events(document);
const form = new InvokeForm(document);

write(document.getElementById("address"), location.origin);
write(
  document.getElementById("first-steps"),
  `export AWS_ENDPOINT_URL=${location.origin}
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
export AWS_DEFAULT_REGION=us-east-1`,
);

function say(state, text) {
  connection.dataset.state = state;
  write(connection, text);
}

function listen() {
  const source = new EventSource("events");
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("state", (message) => {
    const state = JSON.parse(message.data);
    if (state.token) form.token = state.token; // a server that was started anew has another
    endpoints.update(state.endpoints);
    form.update(state.endpoints);
  });
  source.addEventListener("event", (message) => events.add(JSON.parse(message.data)));
  source.addEventListener("error", () => {
    say("lost", "not connected, trying again");
    // A refusal ends an EventSource for good; a broken connection does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

listen();
