// All neurons as points on a canvas: wheel or two fingers zoom, dragging moves, a click leads to the neuron.
import { Absent, bytes, card, choice, className, count, el, float32, heading, isHeld, json, layerTitle, name, neuronAddress, num, onLeave, share, shown, state, uint16 } from "./parts.js";
import { drawing } from "./map_points.js";

const NOTHING = 65535, LISTED = 24;
const SPACES = {
  vectors: ["value vectors", "Neurons lie together whose value vectors point the same way: they write alike into the stream."],
  scores: ["class scores", "Neurons lie together whose value vectors speak for and against the same classes."],
};
// Twelve hues that stay apart for colour-blind readers as well as twelve can, over again for more classes
const HUES = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [184, 168, 0], [136, 34, 85], [17, 119, 51], [140, 107, 177], [160, 82, 45], [95, 158, 160]];
// from dark to light (viridis), for numbers
const RAMP = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];
const GREY = [145, 145, 145];

const isArranged = (space) => space.method === "t-SNE", PATIENCE = 4000;
const ARRANGING = {
  "under way": "Neurons are being arranged so that near ones lie together, which takes a minute or more; the map changes when that is done.",
  "not installed": "With vitdex[atlas] installed, neurons are arranged so that near ones lie together.",
  failed: "Arranging neurons so that near ones lie together has failed; the server says why.",
};
const kindOf = (key) => SPACES[key.replace(/-axes$/, "")];

// What the reader has chosen, for when the map comes again.
const kept = { by: null, text: "" };

export async function mapPage(word) {
  const data = await json("map"), spaces = Object.keys(data.spaces);
  const there = (key) => [key, `${key}-axes`].find((one) => spaces.includes(one));
  if (word !== undefined && spaces.length && !there(word)) throw new Absent(`There is no map ${shown(word)}.`);
  if (!data.layers.length) return { title: "Map", page: el("article", {}, heading("Map of all neurons"), card(null, el("p", {}, "This index holds no neurons with value vectors."))) };
  const points = unpacked(data);
  const first = there(word ?? "scores") ?? there("vectors");
  const view = { space: first, by: state.start.classes.length ? "says" : "block", only: null, find: finder(kept.text, points), x: 0, y: 0, zoom: 1, over: -1 };
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `Map of ${count(points.place.length)} neurons: plus and minus zoom, arrow keys move. The layers' tables list the same neurons.` });
  const tip = el("div", { class: "tip", hidden: true, "aria-live": "polite" });
  const legendBox = el("div", { class: "maplegend" }), note = el("p", { class: "note" });
  const screen = drawing(canvas, view);
  const paint = () => {
    if (!canvas.isConnected) return; // the colours are those of the page, and it has not come or has gone
    const paper = rgb(getComputedStyle(canvas).backgroundColor), style = getComputedStyle(canvas), dark = paper[0] + paper[1] + paper[2] < 384;
    const made = groups(points, view.by, dark), lit = Uint8Array.from(made.group, (g, i) => (view.only === null || g === view.only) && (!view.find || view.find(i)));
    screen.paint({ ...made, lit, paper, line: dark ? [58, 62, 69] : [216, 213, 206], ink: style.getPropertyValue("--ink"), soft: style.getPropertyValue("--soft") });
    legendBox.replaceChildren(...legendOf(points, view, made, (only) => {
      view.only = view.only === only ? null : only;
      paint();
    }));
  };
  const arrange = () => {
    screen.arrange(data.spaces[view.space]);
    note.textContent = [kindOf(view.space)[1], wordsOf(data.spaces[view.space]), ARRANGING[data.arranging]].filter(Boolean).join(" ");
  };
  const colours = [["block", "block"], ["says", "class it says"], points.auroc && ["auroc", "selectivity"], points.effect && ["effect", "effect"]].filter((o) => o && (o[0] !== "says" || state.start.classes.length));
  if (colours.some(([what]) => what === kept.by)) view.by = kept.by;
  const find = el("input", { type: "search", placeholder: "class or unit", "aria-label": "Show only", value: kept.text, oninput: (e) => { view.find = finder((kept.text = e.target.value), points); paint(); } });
  const to = (key) => {
    view.space = key;
    history.replaceState(null, "", `#/map/${key}`);
    arrange();
    screen.whole();
  };
  const by = (what) => {
    [view.by, view.only] = [what, null];
    kept.by = what;
    paint();
  };
  interact(canvas, tip, points, view, screen);
  arrange();
  const page = el("article", { class: "mappage" },
    heading("Map of all neurons", { sub: [el("span", {}, `${count(points.place.length)} neurons with value vectors`)] }),
    card(null,
      el("div", { class: "controls" },
        spaces.length > 1 && el("label", { class: "by" }, "Placed by ", el("select", { "aria-label": "Space", onchange: (e) => to(e.target.value) }, spaces.map((key) => el("option", { value: key, selected: key === view.space }, `${kindOf(key)[0]}, ${isArranged(data.spaces[key]) ? "neighbours (t-SNE)" : "principal components"}`)))),
        choice("Colour", colours, view.by, by), find,
        el("button", { type: "button", class: "quiet", onclick: () => screen.whole() }, "whole map")),
      el("div", { class: "stage" }, canvas, tip), legendBox, note));
  const fit = () => screen.fit();
  window.addEventListener("resize", fit);
  window.addEventListener("theme", paint);
  const asked = data.arranging === "under way" && setInterval(async () => {
    if ((await json("map")).arranging !== "under way") window.dispatchEvent(new Event("hashchange")); // this page anew
  }, PATIENCE);
  onLeave(() => {
    clearInterval(asked);
    window.removeEventListener("resize", fit);
    window.removeEventListener("theme", paint);
  });
  return {
    title: "Map", page, placed() {
      paint();
      fit();
    },
  };
}

// What the places of points mean, and how much of the full space they keep.
function wordsOf({ method, share: variance, kept }) {
  const how = isArranged({ method })
    ? "Placed by t-SNE, which keeps near neurons near: distances between groups and their sizes mean little, and the axes have no unit."
    : `Axes: the first two principal components, with ${share(variance[0])} and ${share(variance[1])} of the variance; what lies together may lie apart in the other directions.`;
  const near = kept && `Of a neuron's ${kept.near} nearest in the full space, ${num(100 * kept.share, 2)} % are among the nearest ${count(kept.within)} points here; by chance ${num(100 * kept.chance, 2)} %.`;
  return [how, near].filter(Boolean).join(" ");
}

function unpacked(data) {
  const many = data.layers.reduce((sum, [, units]) => sum + units, 0), place = new Uint16Array(many), unit = new Uint32Array(many);
  let at = 0;
  for (const [layer, units] of data.layers) for (let i = 0; i < units; i++, at++) [place[at], unit[at]] = [layer, i];
  const { says, auroc, effect } = data.colours;
  return { place, unit, says: uint16(says), auroc: auroc && float32(auroc), effect: effect && float32(effect) };
}

function finder(text, points) {
  const word = text.trim().toLowerCase();
  if (!word) return null;
  const unit = /^\d+$/.test(word) ? Number(word) : null;
  const classes = new Set(state.start.classes.flatMap((_, i) => (className(i).toLowerCase().includes(word) ? [i] : [])));
  return (i) => (unit !== null ? points.unit[i] === unit : classes.has(points.says[i]));
}

const rgb = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
const css = (colour) => `rgb(${colour.join(",")})`;

// A number from 0 to 1: the larger, the farther from the colour of the paper.
function shade(part, dark) {
  const at = Math.min(1, Math.max(0, dark ? 0.2 + 0.8 * part : 0.9 * (1 - part))) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(at));
  return RAMP[i].map((low, c) => Math.round(low + (at - i) * (RAMP[i + 1][c] - low)));
}

// The ends of a colour scale: all but one in fifty, for single points stand far out.
function ends(values) {
  const known = Float32Array.from(values.filter((v) => !Number.isNaN(v))).sort();
  return known.length ? [known[Math.floor(known.length * 0.01)], known[Math.floor((known.length - 1) * 0.99)]] : [0, 1];
}

// The group of every point, the colour of every group, and which points are drawn first: small numbers before large
// ones; of blocks and classes none before the other, for the last would hide the rest.
function groups(points, by, dark) {
  const many = points.place.length, group = new Uint16Array(many), all = Array.from({ length: many }, (_, i) => i);
  if (by === "says" || by === "block") {
    const mixed = Uint32Array.from(all, (i) => Math.imul(i + 1, 2654435761)), order = all.sort((a, b) => mixed[a] - mixed[b]);
    if (by === "says") {
      for (let i = 0; i < many; i++) group[i] = points.says[i] === NOTHING ? 0 : 1 + points.says[i];
      return { group, order, colours: [GREY, ...state.start.classes.map((_, c) => HUES[c % HUES.length])] };
    }
    const blocks = state.start.layers.map((l) => l.block), most = Math.max(1, ...blocks);
    for (let i = 0; i < many; i++) group[i] = blocks[points.place[i]];
    return { group, order, colours: Array.from({ length: most + 1 }, (_, b) => shade(b / most, dark)) };
  }
  const values = points[by], [low, high] = ends(values), steps = 24, known = (i) => (Number.isNaN(values[i]) ? -Infinity : values[i]);
  for (let i = 0; i < many; i++) group[i] = Number.isNaN(values[i]) ? steps : Math.min(steps - 1, Math.max(0, Math.floor(((values[i] - low) / (high - low || 1)) * steps)));
  return { group, order: all.sort((a, b) => known(a) - known(b) || a - b), colours: [...Array.from({ length: steps }, (_, s) => shade(s / (steps - 1), dark)), GREY], low, high };
}

function legendOf(points, view, { colours, low, high }, only) {
  const item = (i, text) => {
    const dot = el("span", { class: "dot" });
    dot.style.background = css(colours[i]);
    return el("button", { type: "button", "aria-pressed": String(view.only === i), onclick: () => only(i) }, dot, text);
  };
  if (view.by === "block") return [...new Set(points.place)].map((place) => state.start.layers[place].block).filter((b, i, all) => all.indexOf(b) === i).map((b) => item(b, `block ${b}`));
  if (view.by === "says") {
    const tally = new Map();
    for (const c of points.says) if (c !== NOTHING) tally.set(c, (tally.get(c) ?? 0) + 1);
    const most = [...tally].sort((a, b) => b[1] - a[1]);
    const rest = most.length > HUES.length && el("span", { class: "note" }, `${most.length > LISTED ? `the ${LISTED} of ${count(most.length)} classes that most neurons say; ` : ""}${HUES.length} colours, used again and again`);
    return [...most.slice(0, LISTED).map(([c, n]) => item(c + 1, [name(className(c)), el("span", { class: "faint" }, ` ${count(n)}`)])), rest || ""];
  }
  const bar = el("span", { class: "rampbar" });
  bar.style.background = `linear-gradient(to right, ${colours.slice(0, -1).map(css).join(",")})`;
  const what = view.by === "auroc" ? "largest AUROC over the classes" : "largest effect over the classes, in logits";
  return [el("span", { class: "legend" }, `≤ ${num(low)}`, bar, `≥ ${num(high)}`), el("span", { class: "note" }, `${what}; the outermost hundredth at either end has one colour`)];
}

function interact(canvas, tip, points, view, screen) {
  const fingers = new Map();
  let moved = 0;
  const at = (e) => [e.offsetX, e.offsetY];
  const point = (i) => {
    if (i !== view.over) screen.again();
    view.over = i;
    tip.hidden = i < 0;
    canvas.classList.toggle("over", i >= 0);
    if (i < 0) return;
    const [px, py] = screen.place(i), says = points.says[i];
    tip.replaceChildren(el("b", {}, `${layerTitle(points.place[i])} · ${points.unit[i]}`),
      says !== NOTHING ? el("span", {}, "says ", name(className(says))) : "",
      points.auroc ? el("span", {}, `AUROC ${num(points.auroc[i])}`) : "",
      points.effect ? el("span", {}, `effect ${num(points.effect[i])}`) : "");
    tip.style.left = `${Math.min(canvas.clientWidth - 170, Math.max(4, px + 12))}px`;
    tip.style.top = `${Math.max(4, py - 12)}px`;
  };
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    screen.zoomAt(...at(e), Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0016)));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, at(e));
    moved = 0;
  });
  canvas.addEventListener("pointermove", (e) => {
    if (!fingers.has(e.pointerId)) return point(screen.nearest(...at(e)));
    const before = fingers.get(e.pointerId), now = at(e);
    const others = [...fingers].filter(([id]) => id !== e.pointerId);
    if (others.length) {
      const [ox, oy] = others[0][1], far = (p) => Math.hypot(p[0] - ox, p[1] - oy) || 1;
      screen.zoomAt((now[0] + ox) / 2, (now[1] + oy) / 2, far(now) / far(before));
    } else {
      view.x += now[0] - before[0];
      view.y += now[1] - before[1];
    }
    moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    fingers.set(e.pointerId, now);
    screen.again();
  });
  const up = (e) => {
    const pressed = fingers.delete(e.pointerId);
    if (!pressed || e.type !== "pointerup" || moved > 5) return;
    const i = screen.nearest(...at(e));
    if (i >= 0 && isHeld(points.place[i], points.unit[i]) && (e.pointerType !== "touch" || i === view.over)) location.hash = neuronAddress(points.place[i], points.unit[i]);
    else point(i);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => fingers.size || point(-1));
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
    if (step) [view.x, view.y] = [view.x + step[0], view.y + step[1]];
    else if (e.key === "+" || e.key === "=") screen.zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1.4);
    else if (e.key === "-") screen.zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1 / 1.4);
    else if (e.key === "0") screen.whole();
    else return;
    e.preventDefault();
    screen.again();
  });
}
