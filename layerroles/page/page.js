// Figures in the page's colours, on screen and in print, and the table of all effects.
const figures = [...document.querySelectorAll("script[data-for]")];
const config = {responsive: true, displaylogo: false, displayModeBar: "hover",
  showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
const draw = (theme, width) => Promise.all(figures.map((source) => {
  const {data, layout} = JSON.parse(source.textContent);
  layout.template = templates[theme];
  layout.autosize = !width;
  const place = document.getElementById(source.dataset.for);
  if (width) Object.assign(layout, {width, height: Math.min(layout.height, 740)});
  place.style.height = `${layout.height}px`;
  const config_ = {...config, responsive: !width, toImageButtonOptions: {filename: source.dataset.for, scale: 2}};
  return Plotly.react(source.dataset.for, data, layout, config_);
})).then((drawn) => { document.documentElement.dataset.drawn = drawn.length; });
const screen_ = () => draw(dark.matches ? "dark" : "light");
// The explorer comes first: it waits for no figure.
const firstDrawing = new Promise((begin) => setTimeout(begin)).then(screen_);
dark.addEventListener("change", screen_);
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.answers, details.rest").forEach((item) => { item.open = true; });
  draw("light", 690);
});
addEventListener("afterprint", screen_);

const cellValue = (row, column) => {
  const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent;
  const number = Number(text);
  return text === "nan" ? Infinity : Number.isNaN(number) ? text : number;
};
const ordered = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
  : String(a).localeCompare(String(b), "en", {numeric: true});
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const filters = [...table.closest("details").querySelectorAll("[data-filter]")];
  filters.forEach((filter) => filter.addEventListener("change", () => {
    for (const row of body.rows)
      row.hidden = filters.some((f) => f.value && row.dataset[f.dataset.filter] !== f.value);
  }));
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const sign = up ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => sign * ordered(cellValue(a, column), cellValue(b, column))));
  }));
}
