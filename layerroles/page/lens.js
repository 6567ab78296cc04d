// A small chart of a lens's readings of one question over depth; up is better, the chosen layer is marked.
const MEASURES = {rank: "rank of the answer", probability: "probability of the answer"};

const lensValues = ({read}, question, measure) => {
  const [ranks, logprobs] = read[question];
  return measure === "rank" ? ranks : logprobs.map((each) => each === null ? null : Math.exp(each));
};

const lensWords = (lens, question, measure, layer) => {
  const values = lensValues(lens, question, measure);
  const describe = (at) => values[at] === null ? `${measure} unknown` : measure === "rank" ? `rank ${values[at]}` : `probability ${number(values[at], 3)}`;
  const under = lens.condition === "intact" ? "intact model" : lens.condition;
  let since = values.length;
  const [ranks] = lens.read[question];
  while (since > 0 && ranks[since - 1] === 1) since--;
  const at = lens.depths.indexOf(layer);
  const here = at < 0 ? "" : `after layer ${layer} ${describe(at)}, `;
  const first = since === values.length ? "not on top at the end"
    : `on top for good after ${lens.depths[since] < 0 ? "the embedding" : `layer ${lens.depths[since]}`}`;
  return `${lens.name}, ${under}: ${here}at the end ${describe(values.length - 1)}; ${first}`;
};

const lensChart = (lenses, question, measure, layer, width) => {
  const height = 128, left = 44, right = 10, top = 10, bottom = 24;
  const depths = lenses[0].depths, last = depths.at(-1);
  const x = (depth) => left + (width - left - right) * (depth - depths[0]) / Math.max(1, last - depths[0]);
  const lines = lenses.map((lens) => ({lens, values: lensValues(lens, question, measure)}));
  const worst = Math.max(1, ...lines.flatMap(({values}) => values.map((value) => Math.log10(value || 1))));
  const part = (value) => measure === "rank" ? Math.log10(value) / worst : 1 - value;
  const y = (value) => top + (height - top - bottom) * part(value);
  const ticks = measure === "rank"
    ? Array.from({length: Math.floor(worst) + 1}, (_, power) => 10 ** power).filter((_, i) => worst < 4 || i % 2 === 0)
    : [0, 0.5, 1];
  const short = (value) => value >= 1e6 ? `${value / 1e6}M` : value >= 1e3 ? `${value / 1e3}k` : String(value);
  const svg = drawn("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": lenses.map((lens) => lensWords(lens, question, measure, layer)).join(". ")});
  for (const tick of ticks)
    svg.append(drawn("line", {x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid"}),
      drawn("text", {x: left - 6, y: y(tick) + 4, "text-anchor": "end"}, short(tick)));
  const step = [1, 2, 5, 10, 20, 50].find((each) => (last + 1) / each * 26 <= width - left) ?? 100;
  for (let depth = 0; depth <= last; depth += step)
    svg.append(drawn("text", {x: x(depth), y: height - 7, "text-anchor": "middle"}, String(depth)));
  if (depths.includes(layer))
    svg.append(drawn("line", {x1: x(layer), x2: x(layer), y1: top - 6, y2: height - bottom + 4, class: "here"}));
  lines.forEach(({lens, values}, index) => {
    const known = depths.map((depth, at) => [depth, values[at]]).filter(([, value]) => value !== null);
    svg.append(drawn("polyline", {class: `line line-${index % 3}`,
      points: known.map(([depth, value]) => `${x(depth).toFixed(1)},${y(value).toFixed(1)}`).join(" ")}));
    for (const [depth, value] of known) {
      const where = depth < 0 ? "embedding" : `after layer ${depth}`;
      svg.append(drawn("circle", {cx: x(depth), cy: y(value), r: depth === layer ? 4.5 : 2.2},
        drawn("title", {}, `${lens.name}, ${where}: ${MEASURES[measure]} ${measure === "rank" ? value : number(value, 3)}`)));
    }
  });
  return svg;
};
