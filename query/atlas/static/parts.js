// What all pages are made of: elements, numbers, names, data, pictures and the maps over them.
// Text comes from strangers: it is only ever set as text, and what is no letter is written out.

export const state = { start: null, held: null };

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- words and numbers

const UNSHOWN = /[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

export function shown(text) {
  return String(text).replace(UNSHOWN, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

// A name from the index: its letters may run either way without turning what stands beside them.
export const name = (text) => el("bdi", { class: "name", title: shown(text) }, shown(text));

export function num(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(digits - 1).replaceAll("-", "−");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(decimals, 5)).replace("-", "−");
}

export const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");
export const share = (value) => (value === null ? "–" : `${num(100 * value)} %`);

export const WORDS = {
  contribution: "contribution", effect: "effect", folded: "folded", score: "score", probability: "probability",
  cosine: "cosine", auroc: "AUROC",
};
export const MEANS = {
  contribution: "What the neuron adds to the class's logit, in logits, mean over the class's own images: folded × what the head reads of the neuron.",
  effect: "Estimated mean fall of the class's logit, less the mean of all logits, without the neuron; About says by what it is replaced.",
  folded: "What an activation of 1 adds to the logit, with all gains and the final norm folded in.",
  score: "Product of the class's row of the head with the value vector as stored.",
  probability: "Softmax of the neuron's scores over all classes.",
  cosine: "Cosine between the class's row of the head and the value vector.",
  auroc: "How well the largest patch tells the class's images from all others: 0.5 is chance, and bars begin there.",
};

// ---- names of things, and their addresses

// A class without a name is called by its number: it must not look like a count.
export function className(id) {
  if (id === null || id < 0) return "no class";
  const own = state.start.classes[id];
  return /^\d+$/.test(own) ? `class ${own}` : own;
}

export function classAddress(id) {
  const { classes, wnids } = state.start, own = classes[id];
  const alone = state.counts.get(own) === 1;
  const wnid = wnids && wnids[id];
  const word = alone ? own : wnid && state.counts.get(wnid) === undefined ? wnid : String(id);
  return `#/class/${encodeURIComponent(word)}`;
}

export function neuronAddress(place, unit) {
  return `#/neuron/${encodeURIComponent(state.start.layers[place].name)}/${unit}`;
}

export const layerAddress = (place) => `#/layer/${encodeURIComponent(state.start.layers[place].name)}`;
export const imageAddress = (id) => `#/image/${id}`;

export function layerTitle(place) {
  const { block, kind, name: full } = state.start.layers[place];
  return { hidden: `Block ${block}`, gated: `Block ${block}`, attention: `Block ${block} attention`, residual: `Block ${block} stream` }[kind] ?? full;
}

export function isHeld(place, unit) {
  return !state.held || Boolean(state.held[place]?.has(unit));
}

export function neuronLink(place, unit, ...more) {
  const inside = more.length ? more : [`${layerTitle(place)} · ${unit}`];
  if (!isHeld(place, unit)) return el("span", { class: "absent", title: "This export has no page of it" }, ...inside);
  return el("a", { href: neuronAddress(place, unit) }, ...inside);
}

export const classLink = (id) => (id >= 0 ? el("a", { href: classAddress(id), class: "class" }, name(className(id))) : el("span", { class: "faint" }, "no class"));

// ---- data

export class Absent extends Error {}

async function fetched(address) {
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("The atlas does not answer. Is its server still running?");
  }
  if (response.status === 404) throw new Absent("There is nothing at this address.");
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error ?? `The server answered ${response.status}.`);
  }
  return response;
}

export const json = async (address) => (await fetched(`data/${address}.json`)).json();

// Thumbnails of a page: one file of many JPEGs, as addresses that an <img> takes. (Object URLs would cost more: a
// browser waits a millisecond for each.)
async function pictures(address) {
  const buffer = await (await fetched(`data/${address}.jpgs`)).arrayBuffer();
  const view = new DataView(buffer), many = view.getUint32(0, true), found = [];
  let at = 4 * (many + 1);
  for (let i = 0; i < many; i++) {
    const length = view.getUint32(4 * (i + 1), true);
    found.push(length ? `data:image/jpeg;base64,${btoa(String.fromCharCode(...new Uint8Array(buffer, at, length)))}` : null);
    at += length;
  }
  return found;
}

// The data of a page and its pictures; none where the index stores none.
export const withPictures = (address) => Promise.all([json(address), state.start.pictures ? pictures(address) : []]);

// What a page has to let go of when the next one has come.
let leaving = [];
export const onLeave = (done) => leaving.push(done);
export function taken() {
  const own = leaving;
  leaving = [];
  return own;
}

export function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

export const uint16 = (text) => new Uint16Array(bytes(text).buffer);
export const float32 = (text) => new Float32Array(bytes(text).buffer);

// value = min + code / 255 * (max - min), exact at both ends
export function decoded(map) {
  const codes = bytes(map.codes), values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = map.min * (1 - codes[i] / 255) + map.max * (codes[i] / 255);
  return values;
}

// ---- maps over pictures: the colours and the scale of every heatmap of vitdex

const STOPS = [[33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247], [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43]];
const OPACITY = 0.75, FADE = 2 / 3;

export function colour(position) {
  const at = (Math.min(1, Math.max(-1, position)) + 1) * 4, i = Math.min(7, Math.floor(at)), part = at - i;
  return STOPS[i].map((low, c) => low + part * (STOPS[i + 1][c] - low));
}

export const opacityAt = (position) => OPACITY * Math.min(1, Math.abs(position) / FADE);

// Where the middle of a scale lies, and what a unit above and below it is on the way to an end.
function spans({ low, high }) {
  const centre = Math.min(Math.max(0, low), high);
  return { centre, up: high > centre ? 1 / (high - centre) : 0, down: low < centre ? 1 / (centre - low) : 0 };
}

const along = (off, up, down) => (off > 0 ? Math.min(1, off * up) : Math.max(-1, off * down));

export function position(value, scale) {
  const { centre, up, down } = spans(scale);
  return along(value - centre, up, down);
}

function weights(patches, pixels, blocky) {
  return Array.from({ length: pixels }, (_, i) => {
    const at = Math.min(patches - 1, Math.max(0, ((i + 0.5) * patches) / pixels - 0.5));
    if (blocky) return [Math.min(patches - 1, Math.floor((i * patches) / pixels)), 0];
    const first = Math.floor(at);
    return [first, at - first]; // 0 at the last patch
  });
}

// The pixels of all positions from -1 to 1, finer than the shades of a screen.
const SHADES = 1024;
let shades = { opacity: null, pixels: null };
function shadesAt(opacity) {
  if (shades.opacity === opacity) return shades.pixels;
  const pixels = Uint32Array.from({ length: 2 * SHADES + 1 }, (_, i) => {
    const at = i / SHADES - 1, [r, g, b] = colour(at).map(Math.round);
    return (Math.round(255 * Math.min(1, opacityAt(at) * opacity)) << 24) | (b << 16) | (g << 8) | r;
  });
  shades = { opacity, pixels };
  return pixels;
}

export function drawMap(canvas, values, [rows, columns], scale, { blocky = false, opacity = 1 } = {}) {
  const { width, height } = canvas, context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer), own = shadesAt(opacity), xs = weights(columns, width, blocky);
  const wide = new Float32Array(rows * width); // each row of patches as pixels: the other direction follows
  for (let r = 0, at = 0; r < rows; r++) {
    for (let x = 0; x < width; x++) {
      const [c, dx] = xs[x], first = values[r * columns + c];
      wide[at++] = dx ? first * (1 - dx) + values[r * columns + c + 1] * dx : first;
    }
  }
  const { centre, up, down } = spans(scale);
  weights(rows, height, blocky).forEach(([r, dy], y) => {
    const above = r * width, below = dy ? above + width : above;
    for (let x = 0; x < width; x++) {
      const at = along(wide[above + x] * (1 - dy) + wide[below + x] * dy - centre, up, down);
      pixels[y * width + x] = own[Math.floor((at + 1) * SHADES + 0.5)];
    }
  });
  context.putImageData(image, 0, 0);
}

// How maps are shown, remembered from page to page.
export const look = { over: "smooth", scale: "neuron", opacity: 1 };
try {
  Object.assign(look, JSON.parse(localStorage.getItem("atlas-look") ?? "{}"));
} catch { /* a browser that keeps nothing */ }

const keep = () => {
  try { localStorage.setItem("atlas-look", JSON.stringify(look)); } catch { /* as above */ }
};

// A picture with its map over it. `scale` is the neuron's.
export function overlaid({ url, alt, map, scale, href, caption }) {
  const [height, width] = thumbSize();
  const picture = url ? el("img", { src: url, alt, width, height, loading: "lazy", decoding: "async" }) : el("span", { class: "noimage", role: "img", "aria-label": alt });
  const canvas = map ? el("canvas", { width, height, "aria-hidden": "true" }) : null;
  const frame = el("span", { class: "frame" }, picture, canvas);
  if (!url) frame.classList.add("bare");
  frame.style.aspectRatio = `${width} / ${height}`;
  const values = map && decoded(map);
  const draw = () => {
    frame.classList.toggle("pale", Boolean(map) && look.over !== "off");
    if (!canvas) return;
    canvas.hidden = look.over === "off";
    canvas.classList.toggle("blocky", look.over === "blocky");
    const own = look.scale === "image" ? { low: map.min, high: map.max } : scale;
    if (!canvas.hidden) drawMap(canvas, values, state.start.grid, own, { blocky: look.over === "blocky", opacity: look.opacity });
  };
  draw();
  const made = el("figure", {}, el("a", { href }, frame), caption && el("figcaption", {}, caption));
  made.draw = draw;
  return made;
}

export function thumbSize() {
  const [height, width] = state.start.input, part = Math.min(1, 112 / Math.max(height, width));
  return [Math.max(1, Math.round(height * part)), Math.max(1, Math.round(width * part))];
}

export function redraw(root) {
  for (const figure of root.querySelectorAll("figure")) figure.draw?.();
}

// The scale on which all maps of a neuron can be compared: at least its quantiles 0.001 and 0.999.
export function neuronScale(thresholds, maps) {
  const seen = maps.filter(Boolean);
  return {
    low: Math.min(thresholds.q001, 0, ...seen.map((m) => m.min)),
    high: Math.max(thresholds.q999, 0, ...seen.map((m) => m.max)),
  };
}

export function mapControls(changed) {
  const set = (what) => (value) => {
    look[what] = value;
    keep();
    changed();
  };
  const slider = el("input", { type: "range", min: 0.2, max: 1.3, step: 0.05, value: look.opacity, "aria-label": "Opacity of the maps", oninput: (e) => set("opacity")(Number(e.target.value)) });
  return el("div", { class: "controls" },
    el("span", { class: "labelled" }, "Map", choice("Map", [["smooth", "smooth"], ["blocky", "patches"], ["off", "off"]], look.over, set("over"))),
    el("span", { class: "labelled" }, "Scale", choice("Scale", [["neuron", "the neuron's"], ["image", "each image's"]], look.scale, set("scale"))),
    el("label", { class: "labelled" }, "Opacity", slider));
}

export function legend(scale) {
  const canvas = el("canvas", { width: 160, height: 8, "aria-hidden": "true" }), context = canvas.getContext("2d");
  for (let x = 0; x < 160; x++) {
    const value = scale.low + (x / 159) * (scale.high - scale.low), p = position(value, scale);
    context.fillStyle = `rgba(${colour(p).map(Math.round).join(",")},${opacityAt(p)})`;
    context.fillRect(x, 0, 1, 8);
  }
  return el("span", { class: "legend" }, num(scale.low), canvas, num(scale.high));
}

// ---- small pieces

// Buttons of which one is pressed.
export function choice(label, options, chosen, changed) {
  const buttons = options.map(([value, text, title]) => el("button", {
    type: "button", title, "aria-pressed": String(value === chosen),
    onclick: () => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === buttons[options.findIndex((o) => o[0] === value)]));
      changed(value);
    },
  }, text));
  return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

export function card(title, ...children) {
  return el("section", { class: "card" }, title && el("h2", {}, title), ...children);
}

// What is wider than a phone scrolls by itself, by keyboard as well.
export function table(label, head, body) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", { class: "table" }, el("thead", {}, head), body));
}

// Rows of a name, a bar from zero and a value. `full`: the value that fills the track; else the largest does.
export function bars(rows, { each, value, text, full }) {
  const low = Math.min(0, ...rows.map(value)), high = full ?? Math.max(0, ...rows.map(value)), wide = Math.max(1e-30, high - low);
  return el("ol", { class: "bars" }, rows.map((row) => {
    const own = value(row), bar = el("span", { class: own < 0 ? "bar minus" : "bar" });
    bar.style.left = `${(100 * (Math.min(0, own) - low)) / wide}%`;
    bar.style.width = `${(100 * Math.abs(own)) / wide}%`;
    return el("li", {}, el("span", { class: "of" }, each(row)), el("span", { class: "track" }, bar), el("span", { class: "value" }, text(row)));
  }));
}

export function heading(title, { sub, before, after } = {}) {
  const step = (address, text, label, key) => el("a", { class: address ? "step" : "step off", href: address ?? undefined, "aria-label": label, "data-step": key, "aria-disabled": address ? undefined : "true" }, text);
  return el("div", { class: "heading" },
    el("div", {}, el("h1", { tabindex: -1 }, title), sub && el("div", { class: "sub" }, sub)),
    (before !== undefined || after !== undefined) && el("span", { class: "steps" }, step(before, "←", "Previous", "before"), step(after, "→", "Next", "after")));
}

export function copied(text, label) {
  const button = el("button", {
    type: "button", class: "quiet",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        button.textContent = "select it by hand";
      }
      setTimeout(() => (button.textContent = label), 1500);
    },
  }, label);
  return button;
}
