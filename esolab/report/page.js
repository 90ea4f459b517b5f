"use strict";
// What a policy wrote meets the page as text only (textContent, Text nodes), never as markup.

const byId = (id) => document.getElementById(id);
const root = document.documentElement;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Figures -------------------------------------------------------------------------------------------------------------

const plots = JSON.parse(byId("plots").textContent);

function ink() {
  const own = getComputedStyle(root);
  const of = (name) => own.getPropertyValue(name).trim();
  const axes = {};
  for (const axis of ["xaxis", "yaxis"]) {
    axes[axis + ".gridcolor"] = of("--line");
    axes[axis + ".linecolor"] = of("--line");
    axes[axis + ".tickcolor"] = of("--line");
    axes[axis + ".tickfont.color"] = of("--quiet");
  }
  return {
    ...axes,
    "font.color": of("--ink"),
    "font.family": getComputedStyle(document.body).fontFamily,
    "hoverlabel.bgcolor": of("--wash"),
    "hoverlabel.font.color": of("--ink"),
    "hoverlabel.bordercolor": of("--line"),
  };
}

async function draw(place) {
  const { data, layout } = plots[place.dataset.plot];
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  await Plotly.newPlot(place, data, layout, options);
  await Plotly.relayout(place, ink());
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    seen.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".plot").forEach((place) => seen.observe(place));

// Light and dark ------------------------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const redraw = () => document.querySelectorAll(".js-plotly-plot").forEach((place) => Plotly.relayout(place, ink()));
prefersDark.addEventListener("change", redraw);
byId("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  root.dataset.theme = dark ? "light" : "dark";
  redraw();
});

// Answers -------------------------------------------------------------------------------------------------------------

const EACH = 20; // prompts a page
const RULES = {
  apart: ["disagreement", (points) => Math.max(...points) - Math.min(...points)],
  high: ["highest mean score", (points) => points.reduce((a, b) => a + b, 0) / points.length],
  low: ["lowest mean score", (points) => -points.reduce((a, b) => a + b, 0) / points.length],
};

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function browse(held) {
  let page = 0;
  const shown = new Set(held.variants.map((_, place) => place).slice(0, 4));
  const corpus = () => held.corpora[byId("data").value];

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => {
      const made = element("option", "", text);
      made.value = value;
      return made;
    }));
  }

  function chooseData() {
    options(byId("decoding"), corpus().decodings.map((how) => [how, how]));
    byId("decoding").value = corpus().headline;
  }

  function chooseSort() {
    const kept = byId("sort").value;
    const gains = [...shown].sort((a, b) => a - b).map((place) => [`for ${place}`, `best for ${held.variants[place].name}`]);
    options(byId("sort"), [...Object.entries(RULES).map(([key, [text]]) => [key, text]), ...gains]);
    if ([...byId("sort").options].some((option) => option.value === kept)) byId("sort").value = kept;
  }

  function sides(row) {
    const answers = row.answers[byId("decoding").value] || [];
    return [...shown].sort((a, b) => a - b).filter((place) => answers[place]).map((place) => ({
      place, variant: held.variants[place], text: answers[place][0], points: answers[place][1],
    }));
  }

  function rank(found) {
    const rule = byId("sort").value;
    const points = found.map((side) => side.points);
    if (!points.length) return -Infinity;
    if (!rule.startsWith("for ")) return RULES[rule][1](points);
    const own = found.find((side) => `for ${side.place}` === rule);
    const rest = found.filter((side) => side !== own).map((side) => side.points);
    return own ? own.points - (rest.length ? Math.max(...rest) : 0) : -Infinity;
  }

  function matching() {
    const words = byId("search").value.toLowerCase();
    return corpus().rows
      .map((row) => ({ row, found: sides(row) }))
      .filter(({ found }) => found.length)
      .filter(({ found }) => !byId("differ").checked || new Set(found.map((side) => side.text)).size > 1)
      .filter(({ row, found }) => !words ||
        [row.id, row.prompt, row.reference, ...found.map((side) => side.text)].join("\n").toLowerCase().includes(words))
      .map((each) => ({ ...each, rank: rank(each.found) }))
      .sort((a, b) => b.rank - a.rank);
  }

  function long(text, className) {
    const made = element("p", `text ${className || ""}`, text);
    if (text.length < 500 && text.split("\n").length < 7) return [made];
    made.classList.add("long");
    const more = element("button", "more", "show all");
    more.type = "button";
    more.addEventListener("click", () => {
      more.textContent = made.classList.toggle("long") ? "show all" : "show less";
    });
    return [made, more];
  }

  function side(name, colour, text, right) {
    const made = element("div", "side");
    const head = element("h4");
    if (colour) {
      const dot = element("span", "dot");
      dot.style.background = colour;
      head.append(dot);
      made.style.borderColor = colour;
    }
    head.append(element("span", "", name), element("span", "", right));
    made.append(head, ...long(text || "(empty)"));
    return made;
  }

  const words = (text) => `${text.split(/\s+/).filter(Boolean).length} words`;

  function card({ row, found }) {
    const made = element("article", "case");
    const all = element("div", "sides");
    all.append(side("reference", "", row.reference.trim(), words(row.reference)));
    for (const each of found) {
      all.append(side(each.variant.name, each.variant.colour, each.text,
        `${held.metric} ${each.points.toFixed(2)}, ${words(each.text)}`));
    }
    made.append(element("h3", "", row.id), ...long(row.prompt, "prompt"), all);
    return made;
  }

  function show() {
    const all = matching();
    const pages = Math.max(1, Math.ceil(all.length / EACH));
    page = Math.min(Math.max(page, 0), pages - 1);
    const left = corpus().prompts - corpus().rows.length;
    const cut = left ? ` Of ${corpus().prompts} prompts the ${corpus().apart} with the largest disagreement at ` +
      `${corpus().headline} and ${corpus().rows.length - corpus().apart} others at random are in this page; ` +
      `${left} are only in predictions.jsonl.` : "";
    byId("count").textContent = `${all.length} of ${corpus().rows.length} prompts, answers of seed ${held.seed}.${cut}`;
    byId("cases").replaceChildren(...all.slice(page * EACH, (page + 1) * EACH).map(card));
    byId("place").textContent = `page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  function afresh() {
    page = 0;
    show();
  }

  function turn(by) {
    page += by;
    show();
    byId("answers").scrollIntoView();
  }

  byId("variants").append(...held.variants.map((variant, place) => {
    const made = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.checked = shown.has(place);
    box.addEventListener("change", () => {
      box.checked ? shown.add(place) : shown.delete(place);
      chooseSort();
      afresh();
    });
    const dot = element("span", "dot");
    dot.style.background = variant.colour;
    made.append(box, dot, element("span", "", variant.name));
    return made;
  }));
  options(byId("data"), held.corpora.map((each, place) => [place, each.name]));
  byId("data").addEventListener("change", () => { chooseData(); afresh(); });
  for (const id of ["decoding", "sort", "differ"]) byId(id).addEventListener("change", afresh);
  byId("search").addEventListener("input", afresh);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  chooseData();
  chooseSort();
  show();
}

unpack(byId("packed").textContent).then((held) => {
  if (held.corpora.length) return browse(held);
  byId("controls").hidden = byId("pages").hidden = true;
  byId("count").textContent = "No run has answers.";
}, (error) => {
  byId("count").textContent = `This browser cannot unpack the answers (${error}); they are in predictions.jsonl.`;
});
