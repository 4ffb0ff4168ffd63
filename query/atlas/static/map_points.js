// The map's points, drawn pixel by pixel into memory: tens of thousands in a frame, without a graphics card.
import { share, uint16 } from "./parts.js";

const CELLS = 64; // a side, of the grid that finds the point under the pointer
const PARTS = 4; // of a pixel: a disc's centre is drawn to a quarter of one
const PAD = 24; // pixels around the picture, so that no disc has to be cut at its edge
const MARGINS = { axes: [58, 46], none: [16, 16] };

// For every place of a centre within its pixel: which pixels a disc covers, and how much of each, of 256.
function discs(radius, opacity, wide) {
  const reach = Math.ceil(radius) + 1;
  return Array.from({ length: PARTS * PARTS }, (_, part) => {
    const dx = ((part % PARTS) + 0.5) / PARTS, dy = (Math.floor(part / PARTS) + 0.5) / PARTS, pixels = [], covers = [];
    for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) {
      const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x + 0.5 - dx, y + 0.5 - dy)));
      if (cover > 0) pixels.push(y * wide + x), covers.push(Math.round(256 * opacity * cover));
    }
    return [Int32Array.from(pixels), Int32Array.from(covers)];
  });
}

const packed = ([r, g, b]) => (b << 16) | (g << 8) | r;

function rounded(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((k) => k * power >= rough);
}

// A canvas of points. `view`: where it looks (x, y, zoom), and the point under the pointer (over).
export function drawing(canvas, view) {
  const context = canvas.getContext("2d", { alpha: false });
  let x = [], y = [], cells = new Map(), space = null, paint = null, image = null, waiting = false;

  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const dense = () => window.devicePixelRatio || 1;
  const margins = () => (space.share ? MARGINS.axes : MARGINS.none);
  const frame = () => {
    const [w, h] = size(), [mx, my] = margins();
    const side = Math.min((w - 2 * mx) / space.spread[0], (h - 2 * my) / space.spread[1]) * view.zoom;
    return [w / 2 + view.x - side / 2, h / 2 + view.y - side / 2, side];
  };
  const radius = () => Math.min(7, Math.max(1.3, 150 / Math.sqrt(x.length)) * Math.sqrt(view.zoom));

  const points = () => {
    const d = dense(), [left, top, side] = frame().map((v) => v * d), r = Math.min(PAD - 3, radius() * d);
    const wide = canvas.width + 2 * PAD, high = canvas.height + 2 * PAD;
    if (image?.width !== wide || image.height !== high) image = new ImageData(wide, high);
    const pixels = new Uint32Array(image.data.buffer), { order, tints, faint } = paint;
    pixels.fill(0xff000000 | packed(paint.paper));
    const strong = discs(r, faint ? 0.95 : 0.8, wide), weak = discs(r, 0.7, wide);
    for (let k = 0; k < order.length; k++) {
      const i = order[k], px = left + x[i] * side + PAD, py = top + y[i] * side + PAD;
      if (!(px > PAD - r - 1 && py > PAD - r - 1 && px < wide - PAD + r + 1 && py < high - PAD + r + 1)) continue;
      const ix = Math.floor(px), iy = Math.floor(py), part = Math.floor((py - iy) * PARTS) * PARTS + Math.floor((px - ix) * PARTS);
      const [near, covers] = (k < faint ? weak : strong)[part], at = iy * wide + ix, rb = tints[i] & 0xff00ff, g = tints[i] & 0xff00;
      for (let j = 0; j < near.length; j++) {
        const to = at + near[j], below = pixels[to], a = covers[j], b = 256 - a;
        pixels[to] = 0xff000000 | (((Math.imul(below & 0xff00ff, b) + Math.imul(rb, a)) >>> 8) & 0xff00ff) | (((Math.imul(below & 0xff00, b) + Math.imul(g, a)) >>> 8) & 0xff00);
      }
    }
    context.putImageData(image, -PAD, -PAD);
  };

  const axes = () => {
    const [w, h] = size(), [left, top, side] = frame(), [foot, edge] = [36, 48], scale = side / space.most;
    const step = rounded(Math.min(90, w / 8) / scale), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const text = (value) => value.toFixed(Math.min(8, digits)).replace("-", "−");
    context.globalAlpha = 0.85;
    context.fillStyle = `rgb(${paint.paper})`;
    context.fillRect(0, h - foot, w, foot);
    context.fillRect(0, 0, edge, h - foot);
    context.globalAlpha = 1;
    context.fillStyle = context.strokeStyle = paint.soft;
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 1;
    context.textAlign = "center";
    context.beginPath();
    context.moveTo(edge + 0.5, 8);
    context.lineTo(edge + 0.5, h - foot + 0.5);
    context.lineTo(w - 8, h - foot + 0.5);
    const along = (pixel, start, middle, sign) => middle + sign * ((pixel - start) / side - 0.5) * space.most;
    for (let v = Math.ceil(along(edge, left, space.middle[0], 1) / step); v * step < along(w - 20, left, space.middle[0], 1); v++) {
      const px = left + side * (0.5 + (v * step - space.middle[0]) / space.most);
      context.moveTo(px, h - foot);
      context.lineTo(px, h - foot + 4);
      context.fillText(text(v * step || 0), px, h - foot + 15);
    }
    context.textAlign = "right";
    for (let v = Math.ceil(along(h - foot - 8, top, space.middle[1], -1) / step); v * step < along(12, top, space.middle[1], -1); v++) {
      const py = top + side * (0.5 - (v * step - space.middle[1]) / space.most);
      context.moveTo(edge, py);
      context.lineTo(edge - 4, py);
      context.fillText(text(v * step || 0), edge - 6, py + 4);
    }
    context.stroke();
    context.textAlign = "center";
    context.fillText(`component 1 (${share(space.share[0])} of the variance)`, (w + edge) / 2, h - 5);
    context.translate(12, (h - foot) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(`component 2 (${share(space.share[1])})`, 0, 0);
  };

  const draw = () => {
    waiting = false;
    if (!canvas.width || !canvas.height) return;
    points();
    context.setTransform(dense(), 0, 0, dense(), 0, 0);
    if (view.over >= 0) {
      const [left, top, side] = frame();
      context.lineWidth = 2;
      context.strokeStyle = paint.ink;
      context.beginPath();
      context.arc(left + x[view.over] * side, top + y[view.over] * side, radius() + 3, 0, 7);
      context.stroke();
    }
    if (space.share) axes();
  };
  const again = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  };

  return {
    again,
    // a space of the data: coordinates between 0 and 1 of a square, so that both axes have one scale
    arrange(given) {
      const wide = given.high[0] - given.low[0], high = given.high[1] - given.low[1], most = Math.max(wide, high) || 1;
      space = { share: given.share, most, spread: [wide / most || 1, high / most || 1], middle: [0, 1].map((a) => (given.low[a] + given.high[a]) / 2) };
      x = Float32Array.from(uint16(given.x), (v) => 0.5 + ((v / 65535 - 0.5) * wide) / most);
      y = Float32Array.from(uint16(given.y), (v) => 0.5 - ((v / 65535 - 0.5) * high) / most);
      cells = new Map();
      for (let i = 0; i < x.length; i++) {
        const key = Math.floor(x[i] * CELLS) * 1000 + Math.floor(y[i] * CELLS);
        if (!cells.has(key)) cells.set(key, []);
        cells.get(key).push(i);
      }
    },
    // colours: [r, g, b] of every group; group: of every point; order: which is drawn first; lit: which are not faint
    paint({ colours, group, order, lit, paper, line, ink, soft }) {
      const own = colours.map(packed), grey = packed(line), tints = Int32Array.from(group, (g, i) => (lit[i] ? own[g] : grey));
      const faint = order.filter((i) => !lit[i]);
      paint = { tints, order: Int32Array.from([...faint, ...order.filter((i) => lit[i])]), faint: faint.length, lit, paper, ink, soft };
      again();
    },
    fit() {
      const d = dense(), [w, h] = size();
      [canvas.width, canvas.height] = [Math.round(w * d), Math.round(h * d)];
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
        if (d < least && paint.lit[i]) [best, least] = [i, d];
      }
      return best;
    },
    place(i) {
      const [left, top, side] = frame();
      return [left + x[i] * side, top + y[i] * side];
    },
  };
}
