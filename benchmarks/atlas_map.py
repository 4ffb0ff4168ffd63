"""Frames a second of the atlas's map while it is dragged and zoomed, in headless Chromium without a graphics card.

    python benchmarks/atlas_map.py [--neurons 36864] [--record figures]

The front end as it is, with neurons and classes drawn at random in clusters; the canvas is 1200 x 700 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright
from record import HEADER, Figure, record
from vitdex.query.atlas.files import front_end
from vitdex.query.atlas.plain import packed

CLASSES, CLUSTERS, ASKED = 1000, 60, 30
# Every frame moves the pointer that a real press holds down, or turns the wheel; times are those of the frames.
DRIVE = """([kind, seconds]) => new Promise((done) => {
  const canvas = document.querySelector(".stage canvas"), times = [], began = performance.now();
  const box = canvas.getBoundingClientRect(), [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const frame = (now) => {
    times.push(now);
    const at = (now - began) / 1000;
    if (at > seconds) return done(times);
    const to = { clientX: x + 250 * Math.sin(3 * at), clientY: y + 150 * Math.sin(2 * at), bubbles: true };
    if (kind === "drag") canvas.dispatchEvent(new PointerEvent("pointermove", { ...to, pointerId: 1 }));
    else canvas.dispatchEvent(new WheelEvent("wheel", { ...to, deltaY: 40 * Math.sin(2 * at - 1.5) }));
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""


def write_site(folder: Path, neurons: int) -> None:
    """The front end with the data of its map alone."""
    draw = np.random.default_rng(0)
    units = neurons // 12
    centres = draw.normal(size=(CLUSTERS, 2)) * 3
    own = draw.integers(CLUSTERS, size=12 * units)
    points = centres[own] + draw.normal(size=(12 * units, 2)) * 0.5
    low, high = points.min(0), points.max(0)
    codes = np.rint((points - low) / (high - low) * 65535).astype(np.uint16)
    space = {
        "x": packed(codes[:, 0]),
        "y": packed(codes[:, 1]),
        "low": low.tolist(),
        "high": high.tolist(),
        "share": [0.1, 0.05],
    }
    colours = {
        "says": packed(draw.integers(CLASSES, size=12 * units).astype(np.uint16)),
        "auroc": packed(draw.random(12 * units).astype(np.float32)),
        "dead": packed(np.zeros(12 * units, np.uint8)),
    }
    start = {
        "name": "drawn",
        "model": "drawn",
        "layers": [{"name": f"blocks.{b}", "block": b, "kind": "hidden", "units": units} for b in range(12)],
        "classes": [f"class {c}" for c in range(CLASSES)],
        "wnids": None,
        "images": 1,
        "rankings": [],
    }
    page = {"layers": [[b, units] for b in range(12)], "spaces": {"vectors": space}, "colours": colours}
    files = {address: file.content for address, file in front_end().items()}
    files |= {f"data/{name}.json": json.dumps(data).encode() for name, data in (("start", start), ("map", page))}
    for address, content in files.items():
        (folder / address).parent.mkdir(parents=True, exist_ok=True)
        (folder / address).write_bytes(content)


def frames(page: Any, kind: str, seconds: float) -> tuple[float, float]:
    """Frames a second, and the 95th percentile of the milliseconds between two frames."""
    steps = np.diff(page.evaluate(DRIVE, [kind, seconds])[5:])
    return float(1000 / steps.mean()), float(np.percentile(steps, 95))


def measure(address: str, neurons: int, seconds: float) -> list[Figure]:
    figures = []
    with sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": 1360, "height": 1000})
        page.goto(f"{address}#/map")
        page.wait_for_selector(".stage canvas")
        page.evaluate(
            "() => { const s = document.querySelector('.stage canvas').style; s.width = '1200px'; s.height = '700px';"
            " window.dispatchEvent(new Event('resize')) }"
        )
        for colour in ("class it says", "selectivity"):
            page.click(f"button:text-is('{colour}')")
            box = page.locator(".stage canvas").bounding_box()
            for kind in ("zoom", "drag"):
                page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                if kind == "drag":
                    page.mouse.down()
                rate, slow = frames(page, kind, seconds)
                if kind == "drag":
                    page.mouse.up()
                name = f"map of {neurons:,} points, colour by {colour}, {kind}"
                figures.append(Figure(name, rate, "frames/s", ASKED, more=True))
                figures.append(Figure(f"{name}, 95th percentile between frames", slow, "ms"))
        browser.close()
    return figures


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=36_864)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--record", type=Path, help="folder to add the figures to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder), options.neurons)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        figures = measure(f"http://127.0.0.1:{server.server_port}/", options.neurons, options.seconds)
        server.shutdown()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n{HEADER}")
    print("\n".join(figure.line for figure in figures))
    record(options.record, "atlas_map", figures)


if __name__ == "__main__":
    main()
