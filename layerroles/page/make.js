// Elements made from data: text goes in as text, never as HTML. Numbers as in the tables.
const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {}))
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children.filter((child) => child !== null));
  return element;
};
const drawn = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const number = (value, places = 2) => value === null ? "undefined"
  : value.toFixed(places).replace("-", "\u2212");
const chance = (p) => p !== null && p < 0.0001 ? "< 0.0001" : number(p, 4);
const interval = (values) => values === null || values[0] === null ? "undefined"
  : `${number(values[0])} [${number(values[1])}, ${number(values[2])}]`;
