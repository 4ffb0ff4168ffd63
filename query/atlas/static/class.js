import { bars, card, choice, classAddress, className, classLink, count, el, heading, imageAddress, layerAddress, layerTitle, mapControls, MEANS, name, neuronLink, neuronScale, num, overlaid, redraw, share, shown, state, WORDS } from "./parts.js";

export function classPage(id, [data, urls]) {
  // numbers as keys come in their own order, so the order of pictures is that in which the page shows images
  const order = [...data.own.image.slice(0, data.own.shown)];
  for (const [by] of Object.entries(data.rankings)) for (const [place, unit] of data.rankings[by].neurons) order.push(...data.neurons[`${place}:${unit}`].exemplars.image);
  const picture = new Map([...new Set(order)].map((image, i) => [image, urls[i]]));
  const last = state.start.classes.length - 1;
  const right = data.answers.find(([answer]) => answer === id)?.[1] ?? 0, all = data.own.image.length;
  const where = card(null);
  const page = el("article", {},
    heading(name(className(id)), {
      sub: [data.wnid && el("code", {}, shown(data.wnid)), el("span", {}, all ? `${count(all)} images, ${share(right / all)} answered right` : "no images in this index")],
      before: id > 0 ? classAddress(id - 1) : null, after: id < last ? classAddress(id + 1) : null,
    }),
    el("div", { class: "two" },
      el("div", {}, keyNeurons(data, picture, where)),
      el("div", {}, where, answers(data), siblings(data))),
    images(data, picture));
  return { title: shown(className(id)), page };
}

// Its first neurons by a ranking that can be changed; in the card `where`, in which layers its first hundred are.
function keyNeurons(data, urls, where) {
  const held = state.start.rankings.filter((by) => data.rankings[by]);
  where.hidden = !held.length;
  if (!held.length) return card("Key neurons", el("p", { class: "note" }, "This index ranks no neuron for the class."));
  const body = el("div", {}), mapped = Object.values(data.neurons).some(({ exemplars }) => exemplars.map.some(Boolean));
  const fill = (by) => {
    const { neurons, layers, counted } = data.rankings[by];
    body.replaceChildren(
      el("p", { class: "note" }, MEANS[by], " Beside each neuron its strongest images of all, whatever their class", mapped ? "; maps are red above 0 and blue below." : "."),
      el("ol", { class: "keys" }, neurons.map(([place, unit, value], i) => keyNeuron(data, place, unit, value, i + 1, by, urls))));
    where.replaceChildren(el("h2", {}, "Where they sit"),
      el("p", { class: "note" }, `Its first ${counted} neurons by ${WORDS[by]}, layer by layer.`),
      bars(layers, { each: ([place]) => el("a", { href: layerAddress(place) }, layerTitle(place)), value: ([, n]) => n, text: ([, n]) => String(n) }));
  };
  fill(held[0]);
  const select = el("select", { "aria-label": "Ranking of the neurons", onchange: (e) => fill(e.target.value) }, held.map((by) => el("option", { value: by }, WORDS[by])));
  return card(null, el("div", { class: "cardhead" }, el("h2", {}, "Key neurons"), el("label", { class: "by" }, "Ranked by ", select)), mapped && mapControls(() => redraw(body)), body);
}

function keyNeuron(data, place, unit, value, rank, by, urls) {
  const { says, exemplars, thresholds } = data.neurons[`${place}:${unit}`];
  const scale = neuronScale(thresholds, exemplars.map);
  const shownImages = exemplars.image.map((id, i) => overlaid({
    url: urls.get(id), map: exemplars.map[i], scale, href: imageAddress(id),
    alt: `Image ${id}, ${shown(data.images[id].path)}: ${num(exemplars.pre[i])}`,
  }));
  return el("li", {},
    el("div", { class: "who" }, el("span", { class: "rank" }, rank), neuronLink(place, unit),
      el("span", { class: "value", title: MEANS[by] }, num(value)),
      says >= 0 && says !== data.id && el("span", { class: "faint" }, "says ", classLink(says))),
    el("div", { class: "strip" }, shownImages));
}

function answers(data) {
  if (!data.answers.length) return null;
  return card("What the model takes its images for", bars(data.answers.slice(0, 8), { each: ([id]) => classLink(id), value: ([, n]) => n, text: ([, n]) => String(n) }));
}

function siblings(data) {
  const near = data.near.filter(([, cosine]) => cosine > 0); // of few classes the rest point away
  if (!near.length) return null;
  return card("Classes near it in the head",
    el("p", { class: "note" }, "Cosine of the rows of the head, centred over the classes."),
    bars(near, { each: ([id]) => classLink(id), value: ([, cosine]) => cosine, text: ([, cosine]) => num(cosine) }));
}

function images(data, urls) {
  const { image, p_class: sure, shown: many } = data.own;
  if (!many) return null;
  const figures = image.slice(0, many).map((id, i) => overlaid({
    url: urls.get(id), href: imageAddress(id), alt: `Image ${id}, ${shown(data.images[id].path)}`,
    caption: [el("span", { class: "taken faint" }, data.images[id].predicted === data.id ? "" : ["taken for ", name(className(data.images[id].predicted))]), el("span", { class: "value" }, num(sure[i]))],
  }));
  const rest = image.slice(many);
  return card("Its images",
    el("p", { class: "note" }, `The ${many} of ${count(image.length)} of which the model is surest, with the probability that it gives the class.`),
    el("div", { class: "grid small" }, figures),
    rest.length ? el("details", {}, el("summary", {}, `The other ${count(rest.length)}, surest first`), el("p", { class: "links" }, rest.map((id) => [el("a", { href: imageAddress(id) }, String(id)), " "]))) : null);
}
