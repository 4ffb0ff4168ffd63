import { card, className, classLink, copied, count, el, heading, imageAddress, json, layerAddress, layerTitle, name, neuronLink, num, share, shown, state, table } from "./parts.js";

const SHOWN = 100; // rows of a table at once
const CHIPS = 60; // classes on the first page

export async function homePage() {
  const { start } = state, neurons = start.layers.reduce((sum, layer) => sum + layer.units, 0);
  const held = state.held ? ` (${count(Object.values(state.held).reduce((sum, units) => sum + units.size, 0))} with a page in this export)` : "";
  const page = el("article", { class: "home" },
    heading("Every neuron a page", { sub: [el("span", {}, `${count(neurons)} neurons${held}, ${count(start.classes.length)} classes, ${count(start.images)} images of ${start.input[0]} × ${start.input[1]} in ${start.grid[0]} × ${start.grid[1]} patches, through `, el("code", {}, shown(start.model)))] }),
    el("div", { class: "doors" },
      el("a", { href: "#/map" }, el("b", {}, "Map"), el("span", {}, "all neurons in two dimensions")),
      el("a", { href: "#/random" }, el("b", {}, "A neuron at random"), el("span", {}, "not chosen to please")),
      el("a", { href: imageAddress(0) }, el("b", {}, "Images"), el("span", {}, "what fires on every patch")),
      el("a", { href: "#/about" }, el("b", {}, "About"), el("span", {}, "where all of this comes from"))),
    start.classes.length ? card("Classes", el("p", { class: "links many" }, start.classes.slice(0, CHIPS).map((_, id) => classLink(id)), start.classes.length > CHIPS && el("a", { href: "#/classes" }, `all ${count(start.classes.length)} …`))) : null,
    card("Layers", el("p", { class: "links many" }, start.layers.map((layer, place) => el("a", { href: layerAddress(place) }, layerTitle(place), el("span", { class: "faint" }, ` ${count(layer.units)}`))))),
    el("p", { class: "keysline" }, [["/", "search"], ["← →", "previous and next"], ["m", "map"], ["r", "a neuron at random"], ["t", "light or dark"]].map(([key, what]) => el("span", {}, el("kbd", {}, key), ` ${what}`))));
  return { title: "Atlas", page };
}

export async function classesPage() {
  const { classes } = state.start, links = classes.map((_, id) => classLink(id));
  const none = el("p", { class: "note", hidden: true }, "No class is called that.");
  const narrow = (e) => {
    const word = e.target.value.trim().toLowerCase();
    links.forEach((link, id) => (link.hidden = !className(id).toLowerCase().includes(word)));
    none.hidden = links.some((link) => !link.hidden);
  };
  const page = el("article", {},
    heading("Classes", { sub: [el("span", {}, `${count(classes.length)} classes, in the order of the head's rows`)] }),
    card(null, classes.length > CHIPS && el("input", { type: "search", placeholder: "part of a name", "aria-label": "Show only classes called", oninput: narrow }), el("p", { class: "links many" }, links), none));
  return { title: "Classes", page };
}

const COLUMNS = [
  ["unit", "unit", "Its number in the layer"], ["says", "says", "The class that its value vector says loudest"], ["score", "score", "How loudly: product with the class's row of the head"],
  ["auroc", "AUROC", "The largest over all classes"], ["auroc_class", "for class", "The class that it tells best"], ["effect", "effect", "The largest over all classes, in logits"], ["effect_class", "on class", "The class whose logit it holds up most"],
  ["positive_share", "above 0", "Share of patches"], ["value_norm", "length", "Of its value vector"],
];
const NAMES = new Set(["says", "auroc_class", "effect_class"]);

export async function layerPage(place) {
  const data = await json(`layer/${place}`), { units } = state.start.layers[place], all = data.neurons;
  const columns = COLUMNS.filter(([key]) => key === "unit" || all[key]);
  const order = Array.from({ length: units }, (_, i) => i);
  let by = all.auroc ? "auroc" : "unit", down = by !== "unit", many = SHOWN;
  const value = (key, unit) => (key === "unit" ? unit : all[key][unit]);
  const head = el("tr", {}), body = el("tbody", {}), more = el("button", { type: "button", class: "more", onclick: () => { many += 400; fill(); } });
  const cell = (key, unit) => {
    if (key === "unit") return el("td", {}, neuronLink(place, unit, String(unit)), all.dead?.[unit] ? el("span", { class: "flag" }, "dead") : "");
    const v = value(key, unit);
    if (NAMES.has(key)) return el("td", { class: "text" }, v === null ? "" : classLink(v));
    return el("td", {}, key === "positive_share" ? share(v) : num(v));
  };
  const fill = () => {
    head.replaceChildren(...columns.map(([key, text, title]) => el("th", { scope: "col", class: NAMES.has(key) ? "text" : undefined, "aria-sort": key === by ? (down ? "descending" : "ascending") : "none" }, el("button", { type: "button", title, onclick: () => sort(key) }, text, key === by ? (down ? " ↓" : " ↑") : ""))));
    body.replaceChildren(...order.slice(0, many).map((unit) => el("tr", {}, columns.map(([key]) => cell(key, unit)))));
    more.hidden = many >= units;
    more.textContent = `${count(Math.min(many, units))} of ${count(units)}: show more`;
  };
  const arrange = () => {
    const missing = (v) => v === null;
    const compare = (a, b) => (missing(a) - missing(b)) || (NAMES.has(by) && !missing(a) ? state.start.classes[a].localeCompare(state.start.classes[b], undefined, { numeric: true }) : a - b) * (down ? -1 : 1);
    order.sort((a, b) => (value(by, a) === null || value(by, b) === null ? missing(value(by, a)) - missing(value(by, b)) : compare(value(by, a), value(by, b))) || a - b);
    fill();
  };
  const sort = (key) => {
    down = key === by ? !down : key !== "unit" && !NAMES.has(key);
    by = key;
    arrange();
  };
  arrange();
  const dead = all.dead ? all.dead.reduce((sum, v) => sum + v, 0) : 0, last = state.start.layers.length - 1;
  const page = el("article", {},
    heading(layerTitle(place), {
      sub: [el("code", {}, shown(data.name)), el("span", {}, `${count(units)} ${data.kind === "hidden" || data.kind === "gated" ? "neurons" : "units"}${dead ? `, ${count(dead)} dead` : ""}`)],
      before: place > 0 ? layerAddress(place - 1) : null, after: place < last ? layerAddress(place + 1) : null,
    }),
    card(null, table(`Neurons of ${layerTitle(place)}`, head, body), more));
  return { title: layerTitle(place), page };
}

function facts(value) {
  if (value === null || typeof value !== "object") return el("span", {}, value === null ? "–" : typeof value === "number" && !Number.isInteger(value) ? num(value, 4) : shown(value) || "–");
  if (Array.isArray(value)) return value.every((v) => typeof v !== "object") ? el("span", {}, shown(value.join(", ")) || "none") : el("div", {}, `${value.length} of: `, facts(value[0]));
  return el("dl", {}, Object.entries(value).map(([key, v]) => [el("dt", {}, shown(key.replaceAll("_", " "))), el("dd", {}, facts(v))]));
}

export async function aboutPage() {
  const data = await json("about"), { run, ...rest } = data.manifest;
  const sums = `${count(data.files)} files, ${num(data.bytes / 1e6)} MB`;
  const page = el("article", { class: "about" },
    heading("About", { sub: [el("span", {}, name(state.start.name), ` · ${sums} · made ${shown(rest.created).replace("T", " ")}`)] }),
    el("div", { class: "two even" },
      el("div", {}, card("Model and images", facts({ ...run, layers: run.layers.map((l) => l.name) }))),
      el("div", {}, card("Index", facts(rest)), data.effects && card("Effects", facts(data.effects)),
        data.failures.length ? card("Images that could not be read", el("ul", {}, data.failures.map(([path, why]) => el("li", {}, name(path), ": ", name(why))))) : null,
        card("Data", el("p", {}, "Everything shown is data beside this page: ", el("code", {}, "data/neuron/LAYER/UNIT.json"), ", with layers by their place from 0; classes, images and the map likewise."), copied(new URL("data/start.json", location.href).href, "copy the first address")))));
  return { title: "About", page };
}

const QUERIES = [
  ["Key neurons of a class", "SELECT layer, unit, contribution, auroc\nFROM key_neurons\nWHERE class_id = 0\nORDER BY contribution DESC\nLIMIT 20"],
  ["Dead neurons by layer", "SELECT layer, count(*) AS neurons, sum(dead::INT) AS dead\nFROM neurons\nGROUP BY layer\nORDER BY layer"],
  ["Images that are answered wrong", "SELECT image_id, path, label, class AS answer, p_class\nFROM images JOIN classes ON predicted = classes.class_id\nWHERE images.class_id <> predicted\nORDER BY p_class\nLIMIT 50"],
];

export async function sqlPage() {
  const text = el("textarea", { rows: 8, spellcheck: "false", "aria-label": "Query" });
  text.value = QUERIES[0][1];
  const answer = el("div", { "aria-live": "polite" });
  const run = async () => {
    answer.replaceChildren(el("p", { class: "note" }, "Running …"));
    try {
      const response = await fetch("sql", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ query: text.value }) });
      const said = await response.json();
      answer.replaceChildren(said.error ? el("p", { class: "error" }, shown(said.error)) : rowsTable(said));
    } catch {
      answer.replaceChildren(el("p", { class: "error" }, "The atlas does not answer. Is its server still running?"));
    }
  };
  text.addEventListener("keydown", (e) => (e.ctrlKey || e.metaKey) && e.key === "Enter" && run());
  const page = el("article", {},
    heading("SQL", { sub: [el("span", {}, "Ask the tables of the index. It is read and never written.")] }),
    card(null, text, el("div", { class: "foot" },
      el("span", { class: "controls" }, el("span", { class: "note" }, "Examples"), QUERIES.map(([title, query]) => el("button", { type: "button", class: "quiet", onclick: () => (text.value = query) }, title))),
      el("button", { type: "button", class: "main", onclick: run, title: "Ctrl+Enter" }, "Run"))),
    answer);
  return { title: "SQL", page };
}

function rowsTable({ rows, records }) {
  const columns = records.length ? Object.keys(records[0]) : [];
  const cell = (v) => (typeof v === "number" ? el("td", {}, Number.isInteger(v) ? String(v) : num(v, 4)) : el("td", { class: "text" }, v === null ? el("span", { class: "faint" }, "NULL") : name(typeof v === "object" ? JSON.stringify(v) : v)));
  const part = records.slice(0, 1000);
  return card(null,
    el("p", { class: "note" }, `${count(rows)} row${rows === 1 ? "" : "s"}${part.length < rows ? `, the first ${count(part.length)} shown` : ""}`),
    table("Answer", el("tr", {}, columns.map((c) => el("th", { scope: "col", class: typeof records[0][c] === "number" ? undefined : "text" }, name(c)))),
      el("tbody", {}, part.map((record) => el("tr", {}, columns.map((c) => cell(record[c])))))));
}
