// All neurons as points on a canvas: wheel or two fingers zoom, dragging moves, a click leads to the neuron.
import { card, choice, className, count, el, float32, heading, isHeld, json, layerTitle, name, neuronAddress, num, onLeave, share, state, uint16, bytes } from "./parts.js";

const NOTHING = 65535, CELLS = 64;
const SPACES = {
  vectors: ["value vectors", "Neurons lie together whose value vectors point the same way: they write alike into the stream."],
  scores: ["class scores", "Neurons lie together whose value vectors speak for and against the same classes."],
};
// Twelve hues that stay apart for colour-blind readers as well as twelve can, over again for more classes
const HUES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#882255", "#117733", "#8C6BB1", "#A0522D", "#5F9EA0"];
// from dark to light (viridis), for numbers
const RAMP = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];

export async function mapPage(word) {
  const data = await json("map");
  if (!data.layers.length) return { title: "Map", page: el("article", {}, heading("Map"), card(null, el("p", {}, "This index holds no neurons with value vectors."))) };
  const points = unpacked(data);
  const spaces = Object.keys(data.spaces);
  const view = { space: spaces.includes(word) ? word : spaces.at(-1), by: state.start.classes.length ? "says" : "block", only: null, x: 0, y: 0, zoom: 1, over: -1 };
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": `Map of ${count(points.place.length)} neurons: plus and minus zoom, arrow keys move. The layers' tables list the same neurons.` });
  const tip = el("div", { class: "tip", hidden: true, "aria-live": "polite" });
  const legendBox = el("div", { class: "maplegend" }), note = el("p", { class: "note" });
  const screen = drawing(canvas, points, data, view);
  const words = () => {
    const s = data.spaces[view.space];
    note.textContent = `${SPACES[view.space][1]} Axes: the first two principal components, with ${share(s.share[0])} and ${share(s.share[1])} of the variance; what lies together may lie apart in the other directions.`;
    legendBox.replaceChildren(...legendOf(points, view, (only) => { view.only = view.only === only ? null : only; words(); screen.again(); }));
  };
  const change = (what) => (value) => {
    view[what] = value;
    if (what === "by") view.only = null;
    if (what === "space") screen.arrange();
    words();
    screen.again();
  };
  const colours = [["block", "block"], ["says", "class it says"], points.auroc && ["auroc", "selectivity"], points.effect && ["effect", "effect"]].filter((o) => o && (o[0] !== "says" || state.start.classes.length));
  const find = el("input", { type: "search", placeholder: "class or unit", "aria-label": "Show only", oninput: (e) => { view.find = finder(e.target.value, points); screen.again(); } });
  interact(canvas, tip, points, view, screen);
  screen.arrange();
  words();
  const page = el("article", { class: "mappage" },
    heading("Map of all neurons", { sub: [el("span", {}, `${count(points.place.length)} neurons with value vectors`)] }),
    card(null,
      el("div", { class: "controls" },
        spaces.length > 1 && el("label", { class: "by" }, "by ", el("select", { "aria-label": "Space", onchange: (e) => change("space")(e.target.value) }, spaces.map((s) => el("option", { value: s, selected: s === view.space }, SPACES[s][0])))),
        choice("Colour", colours, view.by, change("by")), find,
        el("button", { type: "button", class: "quiet", onclick: () => screen.whole() }, "whole map")),
      el("div", { class: "stage" }, canvas, tip), legendBox, note));
  const fit = () => screen.fit();
  window.addEventListener("resize", fit);
  window.addEventListener("theme", fit);
  onLeave(() => ["resize", "theme"].forEach((what) => window.removeEventListener(what, fit)));
  return { title: "Map", page, placed: fit };
}

function unpacked(data) {
  const many = data.layers.reduce((sum, [, units]) => sum + units, 0), place = new Uint16Array(many), unit = new Uint32Array(many);
  let at = 0;
  for (const [layer, units] of data.layers) for (let i = 0; i < units; i++, at++) [place[at], unit[at]] = [layer, i];
  const { says, auroc, effect, dead } = data.colours;
  return { place, unit, says: uint16(says), auroc: auroc && float32(auroc), effect: effect && float32(effect), dead: bytes(dead) };
}

function finder(text, points) {
  const word = text.trim().toLowerCase();
  if (!word) return null;
  const unit = /^\d+$/.test(word) ? Number(word) : null;
  const classes = new Set(state.start.classes.flatMap((c, i) => (c.toLowerCase().includes(word) ? [i] : [])));
  return (i) => (unit !== null ? points.unit[i] === unit : classes.has(points.says[i]));
}

const ramp = (part) => {
  const at = Math.min(1, Math.max(0, part)) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(at));
  return `rgb(${RAMP[i].map((low, c) => Math.round(low + (at - i) * (RAMP[i + 1][c] - low))).join(",")})`;
};

// The ends of a colour scale: all but one in fifty, for single points stand far out.
function ends(values) {
  const known = Float32Array.from(values.filter((v) => !Number.isNaN(v))).sort();
  return known.length ? [known[Math.floor(known.length * 0.01)], known[Math.floor((known.length - 1) * 0.99)]] : [0, 1];
}

// The group of every point and the colour of every group: points of one colour are drawn together.
function groups(points, view) {
  const { by } = view, many = points.place.length, group = new Uint16Array(many);
  if (by === "says") {
    for (let i = 0; i < many; i++) group[i] = points.says[i] === NOTHING ? 0 : 1 + points.says[i];
    return { group, colours: ["#999", ...state.start.classes.map((_, c) => HUES[c % HUES.length])] };
  }
  if (by === "block") {
    const blocks = state.start.layers.map((l) => l.block), most = Math.max(1, ...blocks);
    for (let i = 0; i < many; i++) group[i] = blocks[points.place[i]];
    return { group, colours: Array.from({ length: most + 1 }, (_, b) => ramp((b / most) * 0.92)) };
  }
  const values = points[by], [low, high] = ends(values), steps = 24;
  for (let i = 0; i < many; i++) group[i] = Number.isNaN(values[i]) ? steps : Math.min(steps - 1, Math.max(0, Math.floor(((values[i] - low) / (high - low)) * steps)));
  return { group, colours: [...Array.from({ length: steps }, (_, s) => ramp(s / (steps - 1))), "#999"], low, high };
}

function legendOf(points, view, only) {
  const { colours, low, high } = groups(points, view);
  const item = (i, text) => {
    const dot = el("span", { class: "dot" });
    dot.style.background = colours[i];
    return el("button", { type: "button", "aria-pressed": String(view.only === i), onclick: () => only(i) }, dot, text);
  };
  if (view.by === "block") return [...new Set(state.start.layers.map((l) => l.block))].map((b) => item(b, `block ${b}`));
  if (view.by === "says") {
    const tally = new Map();
    for (const c of points.says) if (c !== NOTHING) tally.set(c, (tally.get(c) ?? 0) + 1);
    return [...tally].sort((a, b) => b[1] - a[1]).slice(0, 24).map(([c, n]) => item(c + 1, [name(className(c)), el("span", { class: "faint" }, ` ${count(n)}`)]));
  }
  const bar = el("span", { class: "rampbar" });
  bar.style.background = `linear-gradient(to right, ${colours.slice(0, -1).join(",")})`;
  const what = view.by === "auroc" ? "largest AUROC over the classes" : "largest effect over the classes, logits";
  return [el("span", { class: "legend" }, num(low), bar, num(high)), el("span", { class: "note" }, what)];
}

function drawing(canvas, points, data, view) {
  const context = canvas.getContext("2d");
  let x = null, y = null, cells = null, waiting = false, order = null, shades = null, made = "";
  const arrange = () => {
    const s = data.spaces[view.space], xs = uint16(s.x), ys = uint16(s.y);
    const wide = s.high[0] - s.low[0], high = s.high[1] - s.low[1], most = Math.max(wide, high);
    x = Float32Array.from(xs, (v) => 0.5 + ((v / 65535 - 0.5) * wide) / most);
    y = Float32Array.from(ys, (v) => 0.5 - ((v / 65535 - 0.5) * high) / most);
    cells = new Map();
    for (let i = 0; i < x.length; i++) {
      const key = Math.floor(x[i] * CELLS) * 1000 + Math.floor(y[i] * CELLS);
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(i);
    }
  };
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const frame = () => {
    const [w, h] = size(), side = Math.min(w, h) * 0.94 * view.zoom;
    return [w / 2 + view.x - side / 2, h / 2 + view.y - side / 2, side];
  };
  const sorted = () => {
    if (made === view.by) return;
    made = view.by;
    shades = groups(points, view);
    order = Array.from({ length: points.place.length }, (_, i) => i).sort((a, b) => shades.group[a] - shades.group[b]);
  };
  const draw = () => {
    waiting = false;
    const [w, h] = size(), [left, top, side] = frame(), dense = window.devicePixelRatio || 1;
    sorted();
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, w, h);
    const many = points.place.length, r = Math.min(7, Math.max(1.3, 150 / Math.sqrt(many)) * Math.sqrt(view.zoom)), fades = view.only !== null || view.find;
    const faint = getComputedStyle(canvas).getPropertyValue("--line");
    const lit = (i) => (view.only === null || shades.group[i] === view.only) && (!view.find || view.find(i));
    for (const light of fades ? [false, true] : [true]) {
      let last = -1;
      context.globalAlpha = light ? (fades ? 0.95 : 0.72) : 0.7;
      if (!light) context.fillStyle = faint;
      for (const i of order) {
        if (fades && lit(i) !== light) continue;
        const px = left + x[i] * side, py = top + y[i] * side;
        if (px < -r || py < -r || px > w + r || py > h + r) continue;
        if (light && shades.group[i] !== last) {
          last = shades.group[i];
          context.fillStyle = shades.colours[last];
        }
        if (r < 2.2) context.fillRect(px - r, py - r, 2 * r, 2 * r);
        else {
          context.beginPath();
          context.arc(px, py, r, 0, 7);
          context.fill();
        }
      }
    }
    context.globalAlpha = 1;
    if (view.over >= 0) {
      context.lineWidth = 2;
      context.strokeStyle = getComputedStyle(canvas).getPropertyValue("--ink");
      context.beginPath();
      context.arc(left + x[view.over] * side, top + y[view.over] * side, r + 3, 0, 7);
      context.stroke();
    }
  };
  const again = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  };
  return {
    arrange, again, draw, frame,
    fit() {
      const dense = window.devicePixelRatio || 1, [w, h] = size();
      [canvas.width, canvas.height] = [w * dense, h * dense];
      again();
    },
    whole() {
      [view.x, view.y, view.zoom] = [0, 0, 1];
      again();
    },
    // zoom about a place on the canvas
    zoomAt(px, py, factor) {
      const [w, h] = size(), next = Math.min(60, Math.max(0.7, view.zoom * factor)), by = next / view.zoom;
      view.x = px - w / 2 - (px - w / 2 - view.x) * by;
      view.y = py - h / 2 - (py - h / 2 - view.y) * by;
      view.zoom = next;
      again();
    },
    nearest(px, py) {
      const [left, top, side] = frame(), mx = (px - left) / side, my = (py - top) / side, reach = 12 / side;
      let best = -1, least = reach * reach;
      const from = (v) => Math.floor((v - reach) * CELLS), to = (v) => Math.floor((v + reach) * CELLS);
      for (let cx = from(mx); cx <= to(mx); cx++) for (let cy = from(my); cy <= to(my); cy++) for (const i of cells.get(cx * 1000 + cy) ?? []) {
        const d = (x[i] - mx) ** 2 + (y[i] - my) ** 2;
        if (d < least && (!view.find || view.find(i)) && (view.only === null || groupOf(i) === view.only)) [best, least] = [i, d];
      }
      return best;
    },
    place: (i) => {
      const [left, top, side] = frame();
      return [left + x[i] * side, top + y[i] * side];
    },
  };
  function groupOf(i) {
    sorted();
    return shades.group[i];
  }
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
    fingers.delete(e.pointerId);
    if (e.type !== "pointerup" || moved > 5) return;
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
