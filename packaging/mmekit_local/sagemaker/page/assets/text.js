// How numbers are written, and how elements are made: always from text, never from markup.

const whole = new Intl.NumberFormat("en");

export function count(number) {
  return whole.format(Math.round(number));
}

export function significant(number) {
  if (number >= 100) return whole.format(Math.round(number));
  return number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms >= 10_000 ? `${significant(ms / 1000)} s` : `${significant(ms)} ms`;
}

export function rate(perSecond) {
  if (!perSecond) return "0";
  return perSecond >= 10 ? count(perSecond) : perSecond.toFixed(1);
}

export function bytes(number) {
  if (number === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (number >= 1024 && place < units.length - 1) {
    number /= 1024;
    place += 1;
  }
  return `${number >= 100 || place === 0 ? Math.round(number) : number.toFixed(1)} ${units[place]}`;
}

export function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export function share(part, all) {
  return all ? `${((100 * part) / all).toFixed(part === all ? 0 : 1)} %` : "–";
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function keyOf(endpoint) {
  return `${endpoint.account}/${endpoint.region}/${endpoint.name}`;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writes only what differs, so that a selection or a screen reader is not disturbed each second.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the children of `parent` those of `items`, in their order, keeping the nodes of old ones.
export function arrange(parent, items, keyOf, make) {
  const old = new Map([...parent.children].map((child) => [child.view?.key, child]));
  let place = parent.firstElementChild;
  while (place && !place.view) place = place.nextElementSibling;
  for (const item of items) {
    const key = keyOf(item);
    let node = old.get(key);
    old.delete(key);
    if (!node) {
      node = make(item);
      node.view.key = key;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    node.view.update(item);
  }
  for (const [key, node] of old) if (key !== undefined) node.remove();
}
