// Where an address leads, the search, the keys.
import { Absent, card, className, classLink, count, el, heading, imageAddress, isHeld, json, layerAddress, layerTitle, name, neuronAddress, onLeave, shown, state, classAddress, taken, withPictures } from "./parts.js";

const main = document.getElementById("page"), root = document.documentElement;

// ---- pages

function placeOf(word) {
  const place = state.start.layers.findIndex((layer) => layer.name === word);
  if (place < 0) throw new Absent(word ? `There is no layer ${shown(word)}.` : "No layer is named.");
  return place;
}

function classOf(word) {
  const { classes, wnids } = state.start, named = classes.flatMap((c, i) => (c === word ? [i] : []));
  if (named.length === 1) return named[0];
  const by = wnids ? wnids.indexOf(word) : -1;
  if (by >= 0) return by;
  if (/^\d{1,9}$/.test(word) && Number(word) < classes.length) return Number(word);
  const close = alike(word, classes, 3).map(([i]) => i);
  throw Object.assign(new Absent(word ? `There is no class ${shown(word)}.` : "No class is named."), { close });
}

const number = (word) => (/^\d{1,9}$/.test(word ?? "") ? Number(word) : NaN);

async function unitPage(layer, word) {
  const place = placeOf(layer), unit = number(word), { units } = state.start.layers[place];
  if (!(unit < units)) throw new Absent(`There is no neuron ${shown(word ?? "")} in ${shown(layer)}. Its neurons count from 0 to ${units - 1}.`);
  if (!isHeld(place, unit)) throw new Absent("This export holds some neurons of the index, and this one is not among them.");
  const [code, found] = await Promise.all([CODE.neuron(), withPictures(`neuron/${place}/${unit}`)]);
  return code.neuronPage(place, unit, found);
}

async function classPage(word) {
  const id = classOf(word ?? ""), [code, found] = await Promise.all([CODE.class(), withPictures(`class/${id}`)]);
  return code.classPage(id, found);
}

// The code of pages, fetched when the first of a kind is asked for.
const others = () => import("./others.js");
const CODE = {
  "": others, classes: others, layer: others, about: others, sql: others,
  neuron: () => import("./neuron.js"), class: () => import("./class.js"), image: () => import("./image.js"), map: () => import("./map.js"),
};

const PAGES = {
  "": async () => (await others()).homePage(),
  neuron: unitPage,
  class: classPage,
  classes: async () => (await others()).classesPage(),
  image: async (word) => (await CODE.image()).imagePage(/^\d+$/.test(word ?? "") ? number(word) : await imageOf(word ?? "")),
  layer: async (word) => (await others()).layerPage(placeOf(word ?? "")),
  map: async (space) => (await CODE.map()).mapPage(space),
  about: async () => (await others()).aboutPage(),
  sql: async () => {
    if (!state.start.console) throw new Absent("SQL is asked of a served atlas: vitdex atlas serve INDEX.");
    return (await others()).sqlPage();
  },
};

async function imageOf(path) {
  const { paths } = await known();
  if (!paths) throw new Absent("This index holds more images than are known here by path: write the number, such as #/image/17.");
  const id = paths.indexOf(path);
  if (id < 0) throw new Absent(`There is no image ${shown(path)}.`);
  return id;
}

function parsed() {
  const words = location.hash.startsWith("#/") ? location.hash.slice(2).split("/") : [""];
  try {
    return words.map(decodeURIComponent);
  } catch {
    return ["?"];
  }
}

const scrolled = new Map();
let asked = 0, here = null, clicked = false;

async function show() {
  if (!location.hash.startsWith("#/") && location.hash.length > 1 && here !== null) return; // a place on this page
  const [kind, ...words] = parsed(), turn = ++asked, to = location.hash, back = !clicked;
  clicked = false;
  if (kind === "random") return location.replace(atRandom());
  if (here !== null) scrolled.set(here, window.scrollY);
  here = to;
  main.setAttribute("aria-busy", "true");
  const waited = setTimeout(() => root.classList.add("waiting"), 150);
  const ending = taken();
  let found;
  try {
    if (!Object.hasOwn(PAGES, kind) || words.length > (kind === "neuron" ? 2 : 1)) throw new Absent("There is no such page.");
    found = await PAGES[kind](...words);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    found = failed(error);
  }
  clearTimeout(waited);
  if (turn !== asked) return void ending.forEach((done) => onLeave(done)); // they go with the page that does come
  root.classList.remove("waiting");
  ending.forEach((done) => done());
  main.removeAttribute("aria-busy");
  main.replaceChildren(found.page);
  document.title = found.title === "Atlas" ? `Atlas of ${shown(state.start.model)}` : `${found.title} · Atlas`;
  for (const link of document.querySelectorAll("#nav a")) link.toggleAttribute("aria-current", link.dataset.kind === kind);
  found.placed?.();
  window.scrollTo(0, back ? scrolled.get(to) ?? 0 : 0);
  if (!back) main.querySelector("h1")?.focus({ preventScroll: true });
}

function failed(error) {
  const absent = error instanceof Absent;
  return {
    title: absent ? "Nothing here" : "Something failed",
    page: el("article", { class: "failed" }, heading(absent ? "Nothing here" : "Something failed"), card(null, el("p", {}, error.message),
      error.close?.length ? el("p", {}, "Did you mean ", error.close.map((id, i) => [i ? " or " : "", classLink(id)]), "?") : null,
      el("p", {}, el("a", { href: "#/" }, "To the first page"), " or search above."))),
  };
}

function atRandom() {
  const { layers } = state.start, places = layers.map((_, place) => place).filter((place) => !state.held || state.held[place]?.size);
  const units = places.map((place) => (state.held ? [...state.held[place]] : layers[place].units));
  const sizes = units.map((u) => (Array.isArray(u) ? u.length : u));
  let at = Math.floor(Math.random() * sizes.reduce((a, b) => a + b, 0)), i = 0;
  while (at >= sizes[i]) at -= sizes[i++];
  return neuronAddress(places[i], Array.isArray(units[i]) ? units[i][at] : at);
}

// ---- search

let knowing = null;
const known = () => (knowing ??= json("search").catch(() => ((knowing = null), { paths: [], descriptions: [], lost: true })));

// How like a word texts are, from 0 to 1: by the pairs of letters that they share with it. Texts may be 200,000.
function likeness(word) {
  const plain = ` ${word.toLowerCase()} `, place = new Map(), many = [];
  const pair = (text, i) => text.charCodeAt(i) * 65536 + text.charCodeAt(i + 1);
  for (let i = 0; i < plain.length - 1; i++) {
    const key = pair(plain, i);
    if (!place.has(key)) place.set(key, many.push(0) - 1);
    many[place.get(key)]++;
  }
  const left = many.slice();
  return (text) => {
    const other = ` ${text.toLowerCase()} `;
    let same = 0;
    for (let at = 0; at < many.length; at++) left[at] = many[at];
    for (let i = 0; i < other.length - 1; i++) {
      const at = place.get(pair(other, i));
      if (at !== undefined && left[at]-- > 0) same++;
    }
    return (2 * same) / (plain.length + other.length - 2);
  };
}

const LIKE = 0.3;
// The texts most like a word, as [number, how like]: as a whole, or in one of their words.
function alike(word, texts, most = 5) {
  const like = likeness(word), found = [];
  texts.forEach((text, i) => {
    const score = Math.max(like(text), ...text.split(/[\s/_.,;-]+/).map((part) => 0.9 * like(part)));
    if (score > LIKE) found.push([i, score]);
  });
  return found.sort((a, b) => b[1] - a[1]).slice(0, most);
}

function matching(texts, word, most, of = (t) => t) {
  const starts = [], inside = [];
  for (let i = 0; i < texts.length && starts.length < most; i++) {
    const at = of(texts[i]).toLowerCase().indexOf(word);
    if (at === 0) starts.push(i);
    else if (at > 0 && inside.length < most) inside.push(i);
  }
  return [...starts, ...inside].slice(0, most);
}

function neuronsNamed(word) {
  const { layers } = state.start, numbers = word.match(/\d+/g)?.map(Number) ?? [];
  const whole = layers.findIndex((layer) => word.startsWith(layer.name.toLowerCase()));
  const unit = numbers.at(-1);
  if (whole >= 0) {
    const rest = word.slice(layers[whole].name.length).match(/^[\s:/]+(\d+)$/);
    if (!rest) return [[layerTitle(whole), layerAddress(whole), "layer"]];
    return Number(rest[1]) < layers[whole].units ? [[`${layerTitle(whole)} · ${rest[1]}`, neuronAddress(whole, Number(rest[1])), "neuron"]] : [];
  }
  if (!/^(block|b|neuron|n)?[\s.]*\d+([\s:/·.]+(neuron|n)?\s*\d+)?$/.test(word)) return [];
  const places = layers.map((_, place) => place).filter((place) => numbers.length === 1 || layers[place].block === numbers[0]);
  const found = places.filter((place) => unit < layers[place].units && isHeld(place, unit)).map((place) => [`${layerTitle(place)} · ${unit}`, neuronAddress(place, unit), "neuron"]);
  if (/^(block|b)/.test(word) && numbers.length === 1) return layers.flatMap((layer, place) => (layer.block === unit ? [[layerTitle(place), layerAddress(place), "layer"]] : []));
  return found;
}

async function hits(text) {
  const word = text.trim().toLowerCase();
  if (!word) return [];
  const { start } = state, found = matching(start.classes, word, 6).map((id) => [className(id), classAddress(id), "class"]);
  if (start.wnids) found.push(...matching(start.wnids, word, 2, (w) => w ?? "").map((id) => [className(id), classAddress(id), "class"]));
  found.push(...neuronsNamed(word).slice(0, 12));
  if (/^\d+$/.test(word) && Number(word) < start.images) found.push([`Image ${word}`, imageAddress(Number(word)), "image"]);
  const { paths, descriptions } = await known();
  const places = matching(descriptions, word, 6, (d) => d[3] ?? "");
  found.push(...places.map((i) => [descriptions[i][3], neuronAddress(descriptions[i][0], descriptions[i][1]), `${layerTitle(descriptions[i][0])} · ${descriptions[i][1]}`]));
  if (paths) found.push(...matching(paths, word, 5).map((id) => [paths[id], imageAddress(id), "image"]));
  if (!found.length) found.push(...likeHits(word, paths ?? [], descriptions));
  return found;
}

// What is called nearly so, where nothing is called so.
function likeHits(word, paths, descriptions) {
  const neuron = ([place, unit]) => [neuronAddress(place, unit), `${layerTitle(place)} · ${unit}, like it`];
  return [
    ...alike(word, state.start.classes).map(([id, like]) => [like, [className(id), classAddress(id), "a class like it"]]),
    ...alike(word, descriptions.map((d) => d[3] ?? "")).map(([i, like]) => [like, [descriptions[i][3], ...neuron(descriptions[i])]]),
    ...alike(word, paths).map(([id, like]) => [like, [paths[id], imageAddress(id), "an image like it"]]),
  ].sort((a, b) => b[0] - a[0]).slice(0, 6).map(([, hit]) => hit);
}

// What the search does not look through.
async function limits() {
  const { paths, lost } = await known();
  if (lost) return "Images and descriptions could not be read: the atlas does not answer.";
  return paths ? null : `Paths of ${count(state.start.images)} images are too many to be searched; a number finds its image.`;
}

function searchBox() {
  const box = document.getElementById("find"), list = document.getElementById("hits");
  let chosen = -1, turn = 0;
  const silent = (text) => el("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, text);
  const close = () => {
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  };
  const mark = (i) => {
    chosen = i;
    list.querySelectorAll("[data-href]").forEach((item, at) => item.setAttribute("aria-selected", String(at === i)));
    if (list.children[i]?.id) box.setAttribute("aria-activedescendant", list.children[i].id);
    list.children[i]?.scrollIntoView({ block: "nearest" });
  };
  const go = (href) => {
    clicked = true;
    location.hash = href;
    box.value = "";
    box.blur();
    close();
  };
  const fill = async () => {
    const mine = ++turn, text = box.value, found = await hits(text), unsearched = text.trim() && (await limits());
    if (mine !== turn) return;
    const items = found.map(([what, href, kind], i) => el("li", { id: `hit${i}`, role: "option", "aria-selected": "false", "data-href": href, onpointerdown: (e) => { e.preventDefault(); go(href); } }, name(what), el("span", { class: "kind" }, kind)));
    list.replaceChildren(...(items.length ? items : [silent("Nothing is called that.")]), ...(unsearched ? [silent(unsearched)] : []));
    list.hidden = !text.trim();
    box.setAttribute("aria-expanded", String(!list.hidden));
    mark(items.length ? 0 : -1);
  };
  box.addEventListener("input", fill);
  box.addEventListener("focus", () => box.value && fill());
  box.addEventListener("blur", close);
  box.addEventListener("keydown", (e) => {
    const many = list.querySelectorAll("[data-href]").length;
    if (e.key === "ArrowDown" && many) mark((chosen + 1) % many);
    else if (e.key === "ArrowUp" && many) mark((chosen + many - 1) % many);
    else if (e.key === "Enter" && list.children[chosen]?.dataset.href) go(list.children[chosen].dataset.href);
    else if (e.key === "Escape") box.blur();
    else return;
    e.preventDefault();
  });
}

// ---- keys, light and dark

function turnLight() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("atlas-theme", root.dataset.theme); } catch { /* a browser that keeps nothing */ }
  window.dispatchEvent(new Event("theme"));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  if (event.key.startsWith("Arrow") && event.target.closest("[role=application]")) return; // which moves by them
  const step = (key) => main.querySelector(`[data-step=${key}][href]`)?.click();
  const act = {
    "/": () => document.getElementById("find").focus(),
    ArrowLeft: () => step("before"), ArrowRight: () => step("after"),
    m: () => (location.hash = "#/map"), r: () => (location.hash = "#/random"), t: turnLight,
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
}

async function begin() {
  try {
    root.dataset.theme = localStorage.getItem("atlas-theme") ?? "";
  } catch { /* a browser that keeps nothing */ }
  if (!root.dataset.theme) delete root.dataset.theme;
  document.getElementById("theme").addEventListener("click", turnLight);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("theme")));
  document.addEventListener("keydown", keys);
  document.querySelector(".skip").addEventListener("click", (e) => {
    e.preventDefault(); // it would be an address
    main.focus();
  });
  document.addEventListener("click", (e) => e.target.closest("a[href]") && (clicked = true), true);
  const [kind] = parsed();
  if (Object.hasOwn(CODE, kind)) CODE[kind]().catch(() => {}); // beside the data; the page says what fails
  try {
    state.start = await json("start");
  } catch (error) {
    main.replaceChildren(failed(error).page);
    return;
  }
  const { start } = state;
  state.counts = new Map();
  for (const own of start.classes) state.counts.set(own, (state.counts.get(own) ?? 0) + 1);
  if (start.held) state.held = Object.fromEntries(Object.entries(start.held).map(([place, units]) => [place, new Set(units)]));
  document.getElementById("model").textContent = shown(start.model);
  const links = [["map", "Map", "#/map"], start.classes.length && ["classes", "Classes", "#/classes"], ["layer", "Layers", layerAddress(0)], ["image", "Images", imageAddress(0)], start.console && ["sql", "SQL", "#/sql"], ["about", "About", "#/about"]];
  document.getElementById("nav").append(...links.filter(Boolean).map(([kind, text, href]) => el("a", { href, "data-kind": kind }, text)));
  searchBox();
  window.addEventListener("hashchange", show);
  await show();
}

begin();
