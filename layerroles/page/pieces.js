// Elements made from data: a verdict badge, a harm gauge, pairs of name and number, an answer.
const badge = (verdict) => make("span", {class: `badge ${verdict.split(/[ ,]/)[0]}`}, verdict);
const gauge = (site) => {
  const at = (harm) => 100 * (Math.min(1.5, Math.max(-0.5, harm)) + 0.5) / 2;
  const [harm, low, high] = site.harm;
  const place = (from, to) => `left:${at(from)}%;width:${at(to) - at(from)}%`;
  const label = `harm ${interval(site.harm)} on a scale on which below 0 helps, within \u00b10.1 is spare, 0 to 0.4 partial and above 0.2 critical`;
  return make("div", {class: "gauge", role: "img", "aria-label": label},
    make("span", {class: "zone", style: place(-0.1, 0.1)}),
    make("span", {class: "zone critical", style: place(0.2, 1.5)}),
    make("span", {class: "reach", style: place(low, high)}), make("span", {class: "point", style: `left:${at(harm)}%`}),
    ...[["0", 0], ["0.2", 0.2], ["1", 1]].map(([text, value]) => make("span", {class: "tick", style: `left:${at(value)}%`}, text)));
};
const pairs = (...items) => make("dl", {class: "numbers"}, ...items.filter(Boolean).map(([term, value]) =>
  make("div", {}, make("dt", {}, term), make("dd", {}, value))));
const unitOf = (cell) => (cell.unit === "accuracy" ? "" : ` (${cell.unit})`);

const outcome = (name, score) => {
  const right = name === "correct", text = name || (score === null ? "" : `score ${number(score)}`);
  return make("span", {class: right ? "out correct" : name ? "out" : "soft"},
    name ? `${right ? "\u2713" : "\u2717"} ${text}` : text);
};
const markWords = (runs, tag) => runs.map(([text, only]) => (only ? make(tag, {}, text) : text));
const leftOut = ({more}) => (more ? [make("span", {class: "soft"}, `\u2026 (${more} characters more)`)] : []);
const answerBlock = (label, name, score, answer, content) => make("div", {},
  make("div", {class: "label"}, make("span", {}, label), outcome(name, score)),
  answer === null ? make("p", {class: "soft"}, "left out of this page to keep it small")
    : make("div", {class: "said", dir: "auto"}, ...(answer.text ? [...content, ...leftOut(answer)]
      : [make("span", {class: "soft"}, "(empty)")])));
