// What all parts of the page need: the server, elements by id, the sentence for screen readers.
"use strict";

export const at = (id) => document.getElementById(id);

export function say(text) { at("status").textContent = text; }

async function answerOf(answer) {
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

export async function fetchJson(path) { return answerOf(await fetch(path)); }

export async function postJson(path, value) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await fetch(path, { method: "POST", headers, body: JSON.stringify(value) }));
}

export function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

export function fill(select, entries, wanted) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value, textContent: text })));
  if (entries.some(([value]) => value === wanted)) select.value = wanted;
}

export function format(value, digits = 3) {
  return value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
}
