import { bars, card, choice, className, classLink, copied, count, el, heading, imageAddress, isHeld, layerAddress, layerTitle, legend, look, mapControls, MEANS, name, neuronAddress, neuronLink, neuronScale, num, overlaid, redraw, share, shown, state, svg, WORDS } from "./parts.js";

const FLAGS = {
  dead: ["dead", "It is above 0 on no token of any image."],
  silent: ["below chance on what it says", "Its largest patch is lower on images of the class that it says loudest than on others (AUROC below 0.5)."],
  seldom: ["seldom on", "It is above 0 on fewer than one patch in a thousand."],
  long: ["long value vector", "Its value vector is among the longest hundredth of its layer."],
};
const EFFECT = "Estimated fall, on this image, of the logit of its class (of the model's answer, where it has none) less the mean of all logits, without the neuron; About says by what it is replaced.";
const SIDES = [["top", "strongest"], ["quantile", "across its range"], ["bottom", "weakest"]];

export function neuronPage(place, unit, [data, urls]) {
  const order = new Map([...new Set(SIDES.flatMap(([side]) => data.exemplars[side].image))].map((id, i) => [id, urls[i]]));
  const { units } = state.start.layers[place];
  const find = (from, by) => {
    for (let at = from + by; at >= 0 && at < units; at += by) if (isHeld(place, at)) return neuronAddress(place, at);
    return null;
  };
  const full = `${state.start.layers[place].name}:${unit}`;
  const title = `${layerTitle(place)} · neuron ${unit}`;
  const page = el("article", { class: "neuron" },
    heading(title, {
      sub: [el("code", {}, shown(full)), el("a", { href: layerAddress(place) }, `all of ${layerTitle(place)}`), data.says >= 0 && el("span", {}, "says ", classLink(data.says)), data.flags.map((flag) => el("span", { class: "flag", title: FLAGS[flag][1] }, FLAGS[flag][0]))],
      before: find(unit, -1), after: find(unit, 1),
    }),
    el("div", { class: "two" },
      el("div", {}, exemplars(data, order), near(data)),
      el("div", {}, classes(data), histogram(data), statistics(data))),
    notes(data, urls.slice(order.size)),
    code(data));
  return { title, page };
}

const valueOf = (data) => (data.kind === "hidden" ? `before ${state.start.activation}` : "of the unit itself");

function exemplars(data, urls) {
  const maps = SIDES.flatMap(([side]) => data.exemplars[side].map), mapped = maps.some(Boolean);
  const scale = neuronScale(data.thresholds, maps);
  const grid = el("div", { class: "grid five" });
  const note = el("p", { class: "note" });
  const fill = (side) => {
    const rows = data.exemplars[side];
    grid.replaceChildren(...rows.image.map((id, i) => exemplar(data, side, i, urls.get(id), scale)));
    const many = count(data.histogram.images);
    note.textContent = {
      top: `The ${rows.image.length} of ${many} images with the largest patches.`,
      quantile: `Images at the deciles of all ${many} largest patches: not chosen to please.`,
      bottom: `The ${rows.image.length} of ${many} images on which it does least.`,
    }[side];
  };
  fill("top");
  const ends = el("span", {});
  const scaled = () => mapped && ends.replaceChildren(look.scale === "image" ? "; each image from its smallest to its largest value" : legend(scale));
  const changed = () => {
    redraw(grid);
    scaled();
  };
  scaled();
  return card(null,
    el("div", { class: "cardhead" }, el("h2", {}, "Images"), choice("Which images", SIDES, "top", fill)),
    mapped ? mapControls(changed) : el("p", { class: "note" }, "This index keeps no maps of the neuron over these images."), grid,
    el("div", { class: "foot" }, note, el("span", { class: "note" }, `values ${valueOf(data)}`, ends)));
}

function exemplar(data, side, i, url, scale) {
  const rows = data.exemplars[side], id = rows.image[i], image = data.images[id];
  const columns = state.start.grid[1], patch = rows.patch[i];
  const effect = rows.effect?.[i] ?? null;
  const what = image.class >= 0 ? className(image.class) : image.label ?? image.path.split("/").pop();
  const alt = `Image ${id}, ${shown(image.path)}: ${num(rows.pre[i])} in row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
  return overlaid({ url, alt, map: rows.map[i], scale, href: imageAddress(id), caption: [name(what), el("span", { class: "value", title: "Its largest patch" }, num(rows.pre[i])), effect !== null && el("span", { class: "value effect", title: EFFECT }, `effect ${num(effect)}`)] });
}

function classes(data) {
  const held = state.start.rankings.filter((by) => data.classes[by]);
  if (!held.length) return null;
  const body = el("div", {});
  const fill = (by) => {
    const { for: first, against } = data.classes[by];
    body.replaceChildren(
      el("p", { class: "note" }, MEANS[by]),
      bars([...first, ...[...against].reverse()], { each: ([id]) => classLink(id), value: ([, v]) => (by === "auroc" ? v - 0.5 : v), text: ([, v]) => num(v) }));
    if (against.length && first.length + against.length < state.start.classes.length) body.querySelector("ol").children[first.length].classList.add("gap");
  };
  fill(held[0]);
  const select = el("select", { "aria-label": "Ranking of the classes", onchange: (e) => fill(e.target.value) }, held.map((by) => el("option", { value: by }, WORDS[by])));
  return card(null, el("div", { class: "cardhead" }, el("h2", {}, "Classes"), el("label", { class: "by" }, "by ", select)), body);
}

const LINES = [["q50", "median"], ["q90", "0.9"], ["q99", "0.99"], ["q999", "0.999"]];

function histogram(data) {
  const { low, high, counts, images } = data.histogram, t = data.thresholds;
  const from = Math.min(low, t.q50), to = Math.max(high, t.q999, from + 1e-6), W = 360, H = 110;
  const x = (v) => ((v - from) / (to - from)) * W, most = Math.max(1, ...counts), wide = (high - low) / counts.length;
  const picture = svg("svg", { viewBox: `-6 -26 ${W + 12} ${H + 60}`, role: "img", class: "histogram", "aria-label": `Histogram of the largest patch of ${images} images, from ${num(low)} to ${num(high)}` });
  if (from < 0 && to > 0) picture.append(svg("line", { x1: x(0), x2: x(0), y1: 0, y2: H, class: "zero" }));
  counts.forEach((n, i) => {
    if (n) picture.append(svg("rect", { x: x(low + i * wide), width: Math.max(1, x(low + wide) - x(low) - 1), y: H - (n / most) * H, height: (n / most) * H, class: low + (i + 0.5) * wide > 0 ? "on" : "below" }));
  });
  let last = -99;
  for (const [key, text] of LINES) {
    const at = x(t[key]), up = at - last < 36 ? -14 : -3;
    last = up === -3 ? at : -99;
    picture.append(svg("line", { x1: at, x2: at, y1: up, y2: H, class: "quantile" }), svg("text", { x: at, y: up - 2, "text-anchor": "middle" }, text));
  }
  picture.append(svg("line", { x1: 0, x2: W, y1: H, y2: H, class: "zero" }), svg("text", { x: 0, y: H + 14 }, num(from)), svg("text", { x: W, y: H + 14, "text-anchor": "end" }, num(to)), svg("text", { x: W / 2, y: H + 29, "text-anchor": "middle" }, `value ${valueOf(data)}`));
  if (x(0) > 40 && x(0) < W - 40) picture.append(svg("text", { x: x(0), y: H + 14, "text-anchor": "middle" }, "0"));
  return card("How strongly it fires", picture, el("p", { class: "note" }, `Bars: the largest patch of each of ${count(images)} images, blue below 0; the tallest stands for ${count(most)}. Lines: quantiles over all patches of all images.`));
}

function statistics(data) {
  const s = data.statistics, t = data.thresholds;
  const rows = [["mean", num(s.pre_mean)], ["standard deviation", num(s.pre_std)], ["mean after the nonlinearity", num(s.post_mean)], ["above 0 on", `${share(s.positive_share)} of patches`], ["0.99 quantile", num(t.q99)], ["0.995 quantile", num(t.q995)], ["0.999 quantile", num(t.q999)], ["length of its value vector", num(s.value_norm)]];
  return card("Statistics", el("dl", {}, rows.map(([what, text]) => [el("dt", {}, what), el("dd", {}, text)])));
}

function near(data) {
  const { vectors, images, shared, chance } = data.near;
  if (!vectors.length) return null;
  const list = (title, note, rows, text) => el("div", {}, el("h3", {}, title), el("p", { class: "note" }, note),
    el("ol", { class: "near" }, rows.map(([place, unit, value, says]) => el("li", {}, neuronLink(place, unit), el("span", { class: "says" }, says >= 0 ? name(className(says)) : ""), el("span", { class: "value" }, text(value))))));
  return card("Nearest neurons", el("div", { class: "pair" },
    list("Write alike", "Cosine of value vectors, over all layers; with the class that each says.", vectors, num),
    chance < shared
      ? list("Fire for the same images", `Of its first ${shared} images, how many are among the other's; ${num(chance)} by chance.`, images, String)
      : el("div", {}, el("h3", {}, "Fire for the same images"), el("p", { class: "note" }, `The first ${shared} images of every neuron are all the images of this index: they tell no neurons apart.`))));
}

function notes(data, generated) {
  const said = data.descriptions.map((d) => el("li", {}, el("span", { class: "quote" }, name(d.description)), el("span", { class: "faint" }, " ", name(d.source), d.note ? [": ", name(d.note)] : null)));
  const made = data.generated.map((g, i) => el("figure", {},
    generated[i] ? el("img", { src: generated[i], alt: `Generated image ${g.id}` }) : el("span", { class: "noimage" }, "not there"),
    el("figcaption", {}, name(g.recipe ?? ""), el("span", { class: "value", title: "Its activation over that of the strongest image" }, `× ${num(g.ratio)}`))));
  return [
    said.length ? card("Called", el("ul", { class: "said" }, said)) : null,
    made.length ? card("Generated to excite it", el("div", { class: "grid" }, made)) : null,
  ];
}

function code(data) {
  const block = (title, text) => el("div", {}, el("div", { class: "cardhead" }, el("h3", {}, title), copied(text, "copy")), el("pre", {}, el("code", {}, shown(text).replaceAll("\\u000a", "\n"))));
  return card("The same in code", el("div", { class: "pair" }, block("Python", data.code.python), block("SQL", data.code.sql)));
}

