// The explorer: a choice of slice and condition, its effect, and the answers that it changed. A slice
// holds the conditions of one strip; its key is [task, protocol, ablation, at, kind of site].
const SHOWS = {all: "all", worse: "got worse", better: "got better", changed: "changed"};
const FIRST_CARDS = 3, MORE_CARDS = 10;
const WIDE = 760; // pixels of a card from which the lens stands beside the question

const explorer = (data, root) => {
  const runs = data.runs, slices = runs.flatMap((run) => run.slices);
  const two = runs.length > 1;
  const part = (id) => document.getElementById(id);
  const chosen = {key: null, name: "", show: "changed", lens: "rank"};
  let shownCards = FIRST_CARDS;

  // Lookups.
  const same = (a, b) => a.every((each, i) => each === b[i]);
  const sliceOf = (run, key) => run.slices.find((slice) => same(slice.key, key));
  const cellOf = (run) => run.cells.find((cell) => same(cell.key, chosen.key));
  const siteOf = (run) => {
    const sites = sliceOf(run, chosen.key)?.sites ?? [];
    const site = runs.map((each) => sliceOf(each, chosen.key)?.sites.find(({name}) => name === chosen.name))
      .find(Boolean)?.site;
    return sites.find(({name}) => name === chosen.name) ?? sites.find((each) => each.site === site) ?? null;
  };
  const most = (slice) => data.most[[slice.key[2], slice.key[4]].join("\n")];

  // Choosing.
  const firstSite = (sites) => {
    const hurt = sites.filter(({harm}) => harm);
    const own = hurt.filter(({verdict}) => verdict.startsWith("critical") && !verdict.includes("general"));
    const worst = (some) => some.reduce((a, b) => (b.harm[0] > a.harm[0] ? b : a));
    if (own.length) return worst(own);
    if (hurt.length) return worst(hurt);
    return sites.reduce((a, b) => ((b.effect[0] ?? 0) < (a.effect[0] ?? 0) ? b : a));
  };
  const settle = (key, name, site) => {
    const sites = runs.map((run) => sliceOf(run, key)).find(Boolean).sites;
    const all = runs.flatMap((run) => sliceOf(run, key)?.sites ?? []);
    const found = all.find((each) => each.name === name) ?? all.find((each) => each.site === site) ?? firstSite(sites);
    Object.assign(chosen, {key, name: found.name});
    shownCards = FIRST_CARDS;
  };
  // Of the slices with this value at one place of their key, the most similar to the chosen one; places of
  // the key count less from left to right.
  const nearest = (axis, value) => {
    const shared = ({key}) => key.reduce((sum, each, i) => sum + (each === chosen.key[i] ? 2 ** (9 - i) : 0), 0);
    return slices.filter(({key}) => key[axis] === value).reduce((a, b) => (shared(b) > shared(a) ? b : a));
  };
  const currentSite = () => runs.map(siteOf).find(Boolean)?.site;

  // The address: what is chosen, readable and short.
  const fragment = () => `#explore?${new URLSearchParams({task: chosen.key[0], protocol: chosen.key[1],
    condition: chosen.name, show: chosen.show, lens: chosen.lens})}`;
  const remember = (how) => {
    try { history[how](null, "", fragment()); } catch { /* a frame without an address of its own */ }
  };
  const recall = () => {
    const [place, query] = location.hash.split("?");
    if (place !== "#explore" || !query) return false;
    const given = new URLSearchParams(query), task = given.get("task"), protocol = given.get("protocol");
    const slice = slices.filter(({key}) => key[0] === task && key[1] === protocol)
      .find(({sites}) => sites.some(({name}) => name === given.get("condition")));
    if (slice) settle(slice.key, given.get("condition"));
    if (given.get("show") in SHOWS) chosen.show = given.get("show");
    if (given.get("lens") in MEASURES) chosen.lens = given.get("lens");
    return true;
  };

  // Questions with what each run answered, in the order of the first run that asked them.
  const textOf = (at) => (at === -2 ? null
    : at > 0 ? {text: data.texts[at - 1], more: data.more[at - 1] ?? 0} : {text: "", more: 0});
  const answersOf = (run, into, which) => {
    const cell = cellOf(run), site = siteOf(run);
    if (!cell || !site) return;
    cell.asked.forEach((question, at) => {
      if (site.got[at] < 0) return;
      const [[before, score], [after, scored]] = [cell.grades[cell.got[at]], cell.grades[site.got[at]]];
      const intact = textOf(cell.said[at]);
      const known = score !== null && scored !== null;
      const alike = site.said[at] === 0;
      const row = {intact, ablated: alike ? intact : textOf(site.said[at]), alike, before, after, score, scored,
        changed: before !== after, worse: known && scored < score, better: known && scored > score, all: true};
      if (!into.has(question)) into.set(question, []);
      into.get(question)[which] = row;
    });
  };
  const answers = () => {
    const byQuestion = new Map();
    runs.forEach((run, which) => answersOf(run, byQuestion, which));
    return [...byQuestion].map(([question, rows]) => ({question, rows}));
  };

  // Drawing.
  const summaryOf = (run) => {
    const site = siteOf(run), cell = cellOf(run);
    const head = two ? make("h4", {}, run.name) : null;
    if (!site)
      return make("div", {class: "summary"}, head, make("p", {class: "soft"}, "This run has no such condition."));
    const judged = !site.judged ? "by its own interval"
      : cell.tasks > 1 ? `for ${cell.family}, over its ${cell.tasks} tasks` : `for ${cell.family}`;
    const needed = site.needed ? `; about ${site.needed} questions would decide` : "";
    return make("div", {class: "summary"}, head,
      make("p", {class: "verdict"}, badge(site.verdict), ` ${site.why ? `: ${site.why}` : judged}${needed}`),
      site.harm ? gauge(site) : null,
      pairs([`score, intact and ablated${unitOf(cell)}`, `${number(site.intact)} \u2192 ${number(site.score[0])}`],
        ["effect", interval(site.effect)], ["harm", interval(site.harm)],
        ["p, corrected", chance(site.p)],
        ["n", site.failed ? `${site.n}, and ${site.failed} not scored` : String(site.n)]));
  };
  const between = () => {
    const against = siteOf(runs[0])?.against;
    return make("div", {class: "summary"}, make("h4", {}, "b \u2212 a"), against
      ? pairs(["difference of effects", interval(against.effect)], ["of harm", interval(against.harm)],
        ["p, corrected", chance(against.p)], ["n, asked by both", String(against.n)])
      : make("p", {class: "soft"}, "Nothing that both runs did and both answered."));
  };

  const pair = (row, run) => {
    const {intact, ablated} = row, there = intact !== null && ablated !== null;
    const apart = there ? difference(intact.text, ablated.text) : [[], []];
    const label = !there || intact.text !== ablated.text ? "ablated"
      : row.alike ? "ablated: word for word the same" : "ablated: the same as far as shown";
    return make("div", {class: "pair"},
      answerBlock(two ? `${run.name}, intact` : "intact", row.before, row.score, intact, markWords(apart[0], "del")),
      answerBlock(label, row.after, row.scored, ablated, markWords(apart[1], "ins")));
  };
  const lensesOf = (question) => data.lenses.filter(({read, condition}) =>
    question in read && (condition === "intact" || condition === chosen.name));
  const lensOf = (question, width) => {
    const lenses = lensesOf(question);
    if (!lenses.length) return null;
    const layer = siteOf(runs[0])?.layer ?? null;
    const here = layer === null ? "" : `; the line marks layer ${layer}`;
    return make("div", {class: "lens"},
      make("div", {class: "label"}, make("span", {}, `${MEASURES[chosen.lens]} over depth${here}`)),
      lensChart(lenses, question, chosen.lens, layer, width - 32),
      ...lenses.map((lens) => make("p", {class: "soft"}, two ? "a, " : "",
        lensWords(lens, question, chosen.lens, layer))));
  };
  const change = (rows) => rows.map((row, which) => {
    if (!row) return null;
    const word = row.worse ? "got worse" : row.better ? "got better" : row.changed ? "fails otherwise" : "same outcome";
    return two ? `${"ab"[which]} ${word}` : word;
  }).filter(Boolean).join(", ");
  const card = ({question, rows}, width) => {
    const [id, prompt, answer] = data.questions[question];
    const lens = lensOf(question, width >= WIDE ? width / 2 : width);
    return make("article", {class: "answer", "aria-label": id},
      make("div", {class: lens && width >= WIDE ? "asked wide" : "asked"}, make("div", {class: "prompt"},
        make("div", {class: "label"}, make("strong", {}, id), make("span", {}, change([...rows]))),
        make("div", {class: "label"}, make("span", {}, "asked (end of the prompt)")),
        make("div", {class: "said", dir: "auto"}, prompt || "(not kept in this run)"),
        make("div", {class: "label"}, make("span", {}, "answer looked for")),
        make("div", {class: "said", dir: "auto"}, answer)), lens),
      ...runs.map((run, which) => (rows[which] ? pair(rows[which], run) : null)));
  };

  // The parts of the page that follow the choice.
  const choices = [...root.querySelectorAll("[data-choice]")];
  const fillChoices = () => choices.forEach((select, axis) => {
    const values = [...new Set(slices.map(({key}) => key[axis]))];
    const names = Object.fromEntries(runs.flatMap(({cells}) => cells.map(({key, family}) => [key[0], family])));
    const label = (value) => (axis === 0 && names[value] ? `${names[value]}: ${value}`
      : axis === 4 && value === "block" ? "whole layer" : value);
    select.replaceChildren(...values.map((value) => make("option", {value}, label(value))));
    select.value = chosen.key[axis];
    select.closest("label").hidden = values.length < 2 && axis > 1;
  });
  const radios = (place, name, options, label) => {
    const current = document.activeElement?.name === name;
    place.replaceChildren(place.firstElementChild, ...Object.keys(options).map((value) => make("label", {},
      make("input", {type: "radio", name, value, checked: chosen[name] === value}), make("span", {}, label(value)))));
    if (current) place.querySelector(":checked").focus();
  };
  const strips = runs.map((run) => makeStrip(two ? run.name : "", (slice, site) => {
    settle(slice.key, site.name);
    render("replaceState");
  }));
  part("strips").replaceChildren(...strips.map(({place}) => place));

  const renderCards = () => {
    const rows = answers();
    const passes = (show) => rows.filter((each) => each.rows.some((row) => row && row[show]));
    radios(part("show"), "show", SHOWS, (value) => `${SHOWS[value]} (${passes(value).length})`);
    const shown = passes(chosen.show);
    const width = part("cards").clientWidth - 2;
    part("cards").replaceChildren(...(shown.length
      ? shown.slice(0, shownCards).map((each) => card(each, width))
      : [make("p", {class: "soft"}, chosen.show === "changed" ? "No answer changed its outcome." : "No such answer.")]));
    const left = shown.length - shownCards;
    part("more").hidden = left <= 0;
    part("more").textContent = `Show ${Math.min(left, MORE_CARDS)} more of ${shown.length}`;
    part("lens-measure").hidden = !shown.some(({question}) => lensesOf(question).length);
    return passes("changed").length;
  };
  const render = (how) => {
    fillChoices();
    runs.forEach((run, which) => {
      const slice = sliceOf(run, chosen.key);
      strips[which].show(slice, slice && most(slice), siteOf(run));
    });
    const limit = most({key: chosen.key});
    root.querySelector("[data-end=low]").textContent = `helps ${number(-limit, 1)}`;
    root.querySelector("[data-end=high]").textContent = `${number(limit, 1)} harm`;
    const site = runs.map(siteOf).find(Boolean), where = wordsOf(site);
    const sites = runs.map((run) => sliceOf(run, chosen.key)?.sites ?? []).find((some) => some.includes(site));
    const title = `${where[0].toUpperCase()}${where.slice(1)}`, [task, protocol] = chosen.key;
    part("chosen").textContent = `${title} \u00b7 ${site.name} \u00b7 ${task}, ${protocol}`;
    part("summary").replaceChildren(...runs.map(summaryOf), ...(two ? [between()] : []));
    radios(part("lens-measure"), "lens", MEASURES, (value) => MEASURES[value]);
    const changed = renderCards();
    part("said").textContent = `${labelOf(site, sites)}: harm ${interval(site.harm)}, ${site.verdict}; ${changed} answers changed`;
    if (how) remember(how);
  };
  const paintRamp = () => {
    root.querySelector(".ramp .bar").style.background =
      `linear-gradient(to right, ${scale().map(([at, colour]) => `${colour} ${at * 100}%`)})`;
  };

  // Event handlers.
  choices.forEach((select, axis) => select.addEventListener("change", () => {
    settle(nearest(axis, select.value).key, chosen.name, currentSite());
    render("replaceState");
  }));
  root.addEventListener("change", ({target}) => {
    if (!(target.name in {show: 0, lens: 0})) return;
    chosen[target.name] = target.value;
    if (target.name === "show") shownCards = FIRST_CARDS;
    renderCards();
    remember("replaceState");
  });
  part("more").addEventListener("click", () => {
    const next = shownCards;
    shownCards += MORE_CARDS;
    renderCards();
    const first = part("cards").children[next];
    if (first) { first.tabIndex = -1; first.focus(); }
  });
  let resized;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(renderCards, 150); });
  addEventListener("hashchange", () => { if (recall()) render(); });
  addEventListener("popstate", () => { if (recall()) render(); });
  dark.addEventListener("change", paintRamp);

  // Select the condition of a clicked mark in a figure over depth.
  const pick = ({points: [point]}) => {
    const meta = point.data.meta, shown = meta?.rows ? meta.rows[point.y] : meta;
    if (!shown?.task) return;
    // Names in figures are escaped.
    const escaped = (name) => name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const names = [shown.task, shown.protocol, shown.ablation, shown.at, "block"];
    const key = slices.map((slice) => slice.key).find((each) => same(each.map(escaped), names));
    if (!key) return;
    const site = runs.flatMap((run) => sliceOf(run, key)?.sites ?? []).find(({layer}) => layer === Math.round(point.x));
    if (!site) return;
    settle(key, site.name);
    render("pushState");
    root.scrollIntoView();
    strips[0].focus();
  };
  firstDrawing.then(() => document.querySelectorAll(".plot").forEach((plot) => {
    if (!plot.data?.some(({meta}) => meta?.task || meta?.rows)) return;
    plot.classList.add("pick");
    plot.on("plotly_click", pick);
  }));

  // Initial choice: what the address names, else a harmful layer, under generation if it was run.
  const written = slices.filter(({key}) => key[1].startsWith("generation") && key[4] === "block");
  const whole = slices.filter(({key}) => key[4] === "block");
  settle([...written, ...whole, ...slices][0].key);
  root.hidden = false;
  document.querySelectorAll("[href='#explore']").forEach((link) => { link.closest("li, p").hidden = false; });
  if (data.examples !== null) {
    part("cut").textContent = "To keep the page small, texts are cut and answers included only for the first "
      + `${data.examples} examples of each task and protocol; changed_answers of the result has them all.`;
    part("cut").hidden = false;
  }
  const linked = recall();
  paintRamp();
  render();
  if (linked) root.scrollIntoView();
};

const laidOut = document.getElementById("explored");
if (laidOut) explorer(JSON.parse(laidOut.textContent), document.getElementById("explore"));
