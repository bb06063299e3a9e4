// Elements from values. Text goes in as text and nothing else, so an id may be any string.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "indeterminate", "open"]);

/** h("p", {class: "muted", onclick: f}, "text", node, [more]): null, undefined and false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...present(children));
  return element;
}

export function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

export function replace(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

let made = 0;

/** An id that no other element of the page has. */
export function fresh(prefix) {
  made += 1;
  return `${prefix}-${made}`;
}

/** Said by screen readers, seen by nobody. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** #/name/part/part, whatever the parts hold. */
export function link(...parts) {
  return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}
