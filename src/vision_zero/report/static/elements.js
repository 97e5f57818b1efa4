"use strict";

/**
 * An element of the page. Children are elements or text; text becomes a text node and is never read as markup, so that
 * nothing a model wrote can become an element. Attributes that are null or false are left out; `onclick` and the like
 * are listeners.
 */
function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

/** A number in few digits: 0.1234 -> 0.123, 12345.6 -> 12,346; a dash where there is none. */
function digits(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1).replace("-", "−").replace("−0", "-0");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** A reward with its sign; a dash where there is none. */
function signed(value) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value).toFixed(2);
  return Number(rounded) === 0 ? "0.00" : rounded.startsWith("-") ? "−" + rounded.slice(1) : "+" + rounded;
}

function tableOf(caption, head, rows) {
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      caption ? el("caption", {}, caption) : null,
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell))))),
    ),
  );
}

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** The text in pieces, those that are searched for in <mark>. */
function marked(text, searched) {
  if (!searched) return [text];
  const pieces = [];
  const lower = text.toLowerCase();
  // Some letters change their length in lower case; then places would not fit, and nothing is marked.
  if (lower.length !== text.length) return [text];
  let from = 0;
  for (let at = lower.indexOf(searched); at >= 0; at = lower.indexOf(searched, from)) {
    pieces.push(text.slice(from, at), el("mark", {}, text.slice(at, at + searched.length)));
    from = at + searched.length;
  }
  pieces.push(text.slice(from));
  return pieces;
}
