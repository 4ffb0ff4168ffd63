import { Absent, bars, card, className, classLink, count, el, heading, imageAddress, json, layerTitle, name, neuronLink, share, shown, state, uint16 } from "./parts.js";

const NOTHING = 65535;

export async function imagePage(id) {
  if (!Number.isInteger(id) || id < 0 || id >= state.start.images) throw new Absent(`There is no such image. Images count from 0 to ${count(state.start.images - 1)}.`);
  const data = await json(`image/${id}`);
  const layers = data.layers.map((layer) => ({ place: layer.layer, units: uint16(layer.units), says: uint16(layer.says) }));
  const title = `Image ${id}`;
  const page = el("article", {},
    heading(title, {
      sub: [el("code", {}, shown(data.path)), data.class >= 0 ? el("span", {}, "class ", classLink(data.class)) : data.label !== null && el("span", {}, "label ", name(data.label))],
      before: id > 0 ? imageAddress(id - 1) : null, after: id < state.start.images - 1 ? imageAddress(id + 1) : null,
    }),
    data.readable ? explorer(data, layers) : card("Unreadable", el("p", {}, "This image could not be read when the index was made.")));
  return { title, page };
}

function explorer(data, layers) {
  const [rows, columns] = data.grid, [, tops] = data.tops;
  let token = data.prefix + Math.floor(rows / 2) * columns + Math.floor(columns / 2), marked = null;
  const box = el("span", { class: "patch", "aria-hidden": "true" });
  const same = el("span", { class: "marks", "aria-hidden": "true" });
  const picture = state.start.pictures
    ? el("img", { src: `data/image/${data.id}.jpg`, alt: `Image ${data.id}, ${shown(data.path)}, as the model saw it`, draggable: "false" })
    : el("span", { class: "noimage" });
  const frame = el("div", { class: "patches", tabindex: 0, role: "application", "aria-label": "Patches: arrow keys move", "aria-describedby": "where" }, picture, same, box);
  frame.style.aspectRatio = `${state.start.input[1]} / ${state.start.input[0]}`;
  const where = el("p", { id: "where", class: "note", "aria-live": "polite" });
  const table = el("div", { class: "tops" });

  const neuronAt = (layer, i) => ({ place: layer.place, unit: layer.units[token * tops + i], says: layer.says[token * tops + i] });
  const showMarks = () => {
    same.replaceChildren();
    if (!marked) return;
    const layer = layers.find((l) => l.place === marked.place);
    for (let patch = 0; patch < rows * columns; patch++) {
      const at = (data.prefix + patch) * tops;
      for (let i = 0; i < tops; i++) if (layer.units[at + i] === marked.unit) same.append(placed(el("span", { class: i ? "mark" : "mark first" }), patch));
    }
  };
  const placed = (made, patch) => {
    made.style.left = `${(100 * (patch % columns)) / columns}%`;
    made.style.top = `${(100 * Math.floor(patch / columns)) / rows}%`;
    made.style.width = `${100 / columns}%`;
    made.style.height = `${100 / rows}%`;
    return made;
  };
  const choose = (next) => {
    token = next;
    const patch = token - data.prefix;
    box.hidden = patch < 0;
    if (patch >= 0) placed(box, patch);
    where.textContent = patch < 0 ? (data.cls && token === 0 ? "The CLS token" : `Token ${token} before the patches`) : `Patch in row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    table.replaceChildren(...layers.map((layer) => el("div", { class: "row" },
      el("span", { class: "of" }, layerTitle(layer.place)),
      el("span", { class: "chips" }, Array.from({ length: tops }, (_, i) => chip(neuronAt(layer, i)))))));
    marked = null;
    showMarks();
  };
  const chip = ({ place, unit, says }) => {
    const made = neuronLink(place, unit, String(unit), says === NOTHING ? "" : el("span", { class: "says" }, name(className(says))));
    made.classList.add("chip");
    const mark = () => {
      marked = { place, unit };
      showMarks();
    };
    made.addEventListener("pointerenter", mark);
    made.addEventListener("focus", mark);
    made.addEventListener("pointerleave", () => {
      marked = null;
      showMarks();
    });
    return made;
  };
  const under = (event) => {
    const area = frame.getBoundingClientRect();
    const c = Math.floor(((event.clientX - area.left) / area.width) * columns), r = Math.floor(((event.clientY - area.top) / area.height) * rows);
    return data.prefix + Math.min(rows - 1, Math.max(0, r)) * columns + Math.min(columns - 1, Math.max(0, c));
  };
  let pinned = false;
  frame.addEventListener("pointermove", (e) => !pinned && e.pointerType !== "touch" && under(e) !== token && choose(under(e)));
  frame.addEventListener("click", (e) => {
    pinned = !(pinned && under(e) === token);
    frame.classList.toggle("pinned", pinned);
    choose(under(e));
  });
  frame.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (!step) return;
    e.preventDefault();
    e.stopPropagation();
    const patch = Math.max(0, token - data.prefix), r = Math.floor(patch / columns) + step[0], c = (patch % columns) + step[1];
    if (r >= 0 && r < rows && c >= 0 && c < columns) choose(data.prefix + r * columns + c);
  });
  choose(token);
  const prefix = data.prefix > 0 && el("span", { class: "choice" }, Array.from({ length: data.prefix }, (_, i) => el("button", { type: "button", onclick: () => choose(i) }, i === 0 && data.cls ? "CLS token" : `token ${i}`)));
  return el("div", { class: "look" },
    el("div", {}, card(null, frame, el("div", { class: "foot" }, where, prefix || null),
      el("p", { class: "note" }, "Move over a patch, or press an arrow key; click to hold it.")), answers(data)),
    card("Strongest neurons here", el("p", { class: "note" }, "The five largest of every layer, largest first, with the class that each one's value vector says loudest. Point at one to see where else it is among them."), table));
}

function answers(data) {
  if (!data.answers.length) return null;
  return card("The model's answer", bars(data.answers, { each: ([id]) => classLink(id), value: ([, p]) => p, text: ([, p]) => share(p), full: 1 }));
}
