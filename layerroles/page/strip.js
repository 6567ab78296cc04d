// A strip of conditions, coloured by harm as in the harm map; arrow keys move from one to the next.
const NARROWEST = 27, NAMED = 62; // pixels of a layer's cell, and of one with a site's name
const ROWS = [80, 60, 40, 30, 20, 10, 5];

const rgb = (hexadecimal) => [1, 3, 5].map((start) => parseInt(hexadecimal.slice(start, start + 2), 16));
const scale = () => templates[dark.matches ? "dark" : "light"].layout.colorscale.diverging;

// The colour of a harm on the figures' scale, which ends at `most` on both sides.
const tint = (harm, most) => {
  const place = Math.min(1, Math.max(0, (harm / most + 1) / 2)), stops = scale();
  const above = Math.max(1, stops.findIndex(([at]) => at >= place));
  const [[low, from], [high, to]] = [stops[above - 1], stops[above]];
  const share = (place - low) / (high - low), end = rgb(to);
  return rgb(from).map((part, i) => Math.round(part + share * (end[i] - part)));
};
const luminance = (colour) => colour.map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const inkOn = (colour) => luminance(colour) > 0.179 ? "#000" : "#fff";

const signOf = (site) => site.verdict.startsWith("critical") ? "\u25a0"
  : site.verdict === "sink" ? "\u25bd"
  : site.harm && (site.harm[1] > 0 || site.harm[2] < 0) ? "\u2022" : "";
const wordsOf = (site) => site.layer === null || /\./.test(site.site) ? site.site : `layer ${site.layer}`;

// The words for a condition's site; the condition's name if its slice has several at that site.
const labelOf = (site, sites) =>
  sites.filter((each) => each.site === site.site).length > 1 ? site.name : wordsOf(site);

const makeStrip = (name, choose) => {
  const list = make("div", {role: "listbox", "aria-orientation": "horizontal", class: "strip"});
  const place = make("div", {class: "lane"}, name ? make("p", {class: "lane-name"}, name) : null, list);
  let cells = [], shown = null;

  const arrange = () => {
    if (!shown?.each) return;
    const {each, layered} = shown, fit = Math.floor(list.clientWidth / (layered ? NARROWEST : NAMED));
    const columns = !layered ? each * Math.max(1, Math.floor(fit / each))
      : cells.length <= fit ? cells.length : ROWS.find((row) => row <= fit) ?? 5;
    list.className = each > fit ? "strip" : layered ? "strip layered" : "strip layered named";
    list.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  };
  new ResizeObserver(arrange).observe(list);

  const paint = () => cells.forEach(({cell, site}) => {
    cell.classList.toggle("undefined", site.harm === null);
    const colour = site.harm && tint(site.harm[0], shown.most);
    cell.style.backgroundColor = colour ? `rgb(${colour.join()})` : "";
    cell.style.color = colour ? inkOn(colour) : "";
  });
  dark.addEventListener("change", () => shown && paint());

  // The cell above or below: that which is nearest in the nearest other row.
  const across = (from, down) => {
    const here = from.getBoundingClientRect();
    const others = cells.map(({cell}) => ({cell, box: cell.getBoundingClientRect()}))
      .filter(({box}) => down ? box.top > here.top + 1 : box.top < here.top - 1);
    const row = (down ? Math.min : Math.max)(...others.map(({box}) => box.top));
    const apart = ({box}) => Math.abs(box.left - here.left);
    return others.filter(({box}) => Math.abs(box.top - row) < 2)
      .sort((a, b) => apart(a) - apart(b))[0]?.cell;
  };
  list.addEventListener("keydown", (event) => {
    const at = cells.findIndex(({cell}) => cell === document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {
      ArrowRight: () => cells[at + 1]?.cell, ArrowLeft: () => cells[at - 1]?.cell,
      ArrowDown: () => across(cells[at].cell, true), ArrowUp: () => across(cells[at].cell, false),
      Home: () => cells[0].cell, End: () => cells.at(-1).cell,
      Enter: () => cells[at].cell, " ": () => cells[at].cell,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const next = to();
    if (next) { next.focus(); next.click(); }
  });

  // Show the conditions of a slice. If they are shown already, their cells stay, and with them the focus.
  const show = (slice, most, selected) => {
    if (!slice) {
      place.hidden = true;
      return;
    }
    place.hidden = false;
    if (shown?.slice !== slice) {
      const sites = slice.sites, layers = new Set(sites.map(({layer}) => layer));
      // Sites of each layer, where all have as many: they stand in columns.
      const each = layers.has(null) || sites.length % layers.size ? 0 : sites.length / layers.size;
      const layered = each === 1;
      shown = {slice, most, layered, each};
      list.className = "strip";
      list.style.gridTemplateColumns = "";
      list.setAttribute("aria-label", `${name ? `${name}: ` : ""}${layered ? "layers" : "conditions"}, coloured by harm`);
      cells = sites.map((site) => {
        const sign = signOf(site);
        const label = labelOf(site, sites);
        const words = `harm ${interval(site.harm)}, ${site.verdict}`;
        const cell = make("div",
          {role: "option", "aria-label": `${label}, ${words}`, title: `${site.name}: ${words}`},
          make("span", {"aria-hidden": true}, layered ? String(site.layer) : label === site.name ? label : site.site),
          make("span", {"aria-hidden": true, class: "sign"}, sign));
        cell.addEventListener("click", () => choose(slice, site));
        return {cell, site};
      });
      list.replaceChildren(...cells.map(({cell}) => cell));
      paint();
      arrange();
    }
    const chosen = cells.findIndex(({site}) => site === selected);
    cells.forEach(({cell}, at) => {
      cell.setAttribute("aria-selected", String(at === chosen));
      cell.tabIndex = at === Math.max(0, chosen) ? 0 : -1;
    });
  };
  return {place, show, focus: () => cells.find(({cell}) => cell.tabIndex === 0)?.cell.focus({preventScroll: true})};
};
