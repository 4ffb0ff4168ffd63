"""Tables as the analyses give them, made up for any number of classes, and their figures.

python tests/query/figures_of_many.py FOLDER      # every figure at 12, 100 and 1,000 classes, as PNG files
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from vitdex.query.dissect.similarity import agreement_of_spaces
from vitdex.query.drawing.ablation_figure import ablation_figure
from vitdex.query.drawing.carriers_figure import carriers_figure
from vitdex.query.drawing.class_figures import activations_figure, blocks_figure, shared_figure
from vitdex.query.drawing.context_figure import context_figure
from vitdex.query.drawing.focus_figure import focus_figure
from vitdex.query.drawing.generated_figure import Column, draw_columns
from vitdex.query.drawing.neuron_figures import concepts_figure, fires_figure, lines_figure, selectivity_figure
from vitdex.query.drawing.rankings_figure import rankings_figure
from vitdex.query.drawing.region_figure import Regions, draw_regions
from vitdex.query.drawing.similarity_figure import similarity_figure
from vitdex.query.drawing.sum_figures import composed_figure, sets_figure, sums_figure

COUNTS = (12, 100, 1000)
UNITS = 3072
CAPTION = "What is shown, of what, by contribution, over so many images (n).\nDefinitions: contribution: docs/page.md"
LONG = "a very long name of a class such as data sets of synonyms have, with commas, "


def names(count: int, long: bool) -> list[str]:
    """Names of classes; long ones have 150 letters."""
    return [f"{i} {LONG * 2}"[:150] if long else f"class {i}" for i in range(count)]


def figures(of: list[str]) -> dict[str, Callable[[], Figure]]:
    """Every figure of classes of these names. Models of many classes have more blocks, too."""
    name, count = of[0], len(of)
    draw, blocks = np.random.default_rng(count), 12 if count < 1000 else 24

    def layers(k: int) -> dict[str, Any]:
        block = draw.integers(0, blocks, k)
        return {"layer": [f"blocks.{b}.mlp.fc1" for b in block], "block": block, "unit": draw.integers(0, UNITS, k)}

    def blocks_of() -> Figure:
        table = pd.DataFrame(
            [
                {"top": t, "block": b, "neurons": n, "share": n / (count * t), "chance": 1 / blocks}
                for t in (1, 3, 10)
                for b, n in enumerate(draw.multinomial(count * t, np.linspace(1, 5, blocks) / (3 * blocks)))
            ]
        )
        ranks = [
            {"class_id": c, "rank": r + 1, "of_first": value}
            for c in range(count)
            for r, value in enumerate(np.sort(draw.uniform(0, 1, 10))[::-1])
        ]
        carried = pd.DataFrame(ranks)
        carried["of_first"] /= carried.groupby("class_id").of_first.transform("first")
        return blocks_figure(table, carried, "contribution", CAPTION)

    def activations() -> Figure:
        groups = ["all", *map(str, range(blocks))]
        one = {"rank": range(1, 11), "n": 50, "n_others": 50 * (count - 1), "auroc": draw.uniform(0.45, 1, 10)}
        frames = [pd.DataFrame({"blocks": group, **one, **layers(10)}) for group in groups]
        table = pd.concat(frames, ignore_index=True)
        for end, mean in (("", 4), ("_others", 1)):
            table[f"mean_max{end}"] = draw.normal(mean, 1, len(table))
            table[f"max_25{end}"], table[f"max_75{end}"] = table[f"mean_max{end}"] - 1, table[f"mean_max{end}"] + 1
        return activations_figure(table, name, "contribution", caption=CAPTION)

    def focus() -> Figure:
        energy = draw.beta(5, 5, count)
        table = pd.DataFrame({"class": of, **layers(count), "energy": energy, "n": 48})
        table = table.assign(mask_share=0.3, energy_se=0.03, random_energy=draw.beta(9, 12, count), random_05=0.1)
        table = table.assign(random_95=0.8, exceeds=table.energy > table.random_energy.clip(0.3))
        table = table.assign(chance=0.75, passes=table.energy > 0.75)
        return focus_figure(table, "contribution", CAPTION)

    def carriers() -> Figure:
        effective = 1 + draw.gamma(2, count / 20, 5000)
        table = pd.DataFrame({"effective": effective, "effective_mean": 1 + draw.gamma(9, count / 40, 5000)})
        table["carried"] = draw.poisson(0.3, 5000)
        rows = pd.DataFrame(layers(20)).assign(rank=range(1, 21)).loc[np.repeat(range(20), 5)]
        weight = np.sort(draw.gamma(2, 0.1, (20, 5)))[:, ::-1].reshape(-1)
        rows = rows.assign(weight=weight, share=weight / 3, chance=0.15, passes=weight > 0.15)
        rows["class"] = np.array(of, object)[draw.integers(0, count, 100)]
        return carriers_figure(table, rows, "contribution", CAPTION)

    def context() -> Figure:
        table = pd.DataFrame({"class": of, "images": 50, "background": draw.beta(7, 3, count)})
        table["contribution_outside"] = (table.background + draw.normal(-0.1, 0.15, count)).clip(0, 1)
        table["energy_outside"] = (table.background + draw.normal(-0.05, 0.1, count)).clip(0, 1)
        table = table.assign(se=0.03, chance=(table.background + 0.04).clip(0, 1))
        lives = table.contribution_outside > table.chance
        return context_figure(table.assign(lives_from_background=lives), "contribution", CAPTION)

    def similarity() -> Figure:
        groups = draw.normal(size=(max(count // 10, 3), 64))
        rows = groups[draw.integers(0, len(groups), count)] + draw.normal(size=(count, 64))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        a, b = np.triu_indices(count, 1)
        label = np.array(of, object)
        table = pd.DataFrame({"class_a": label[a], "class_b": label[b]})
        for space, noise in (("head", 0.0), ("value", 0.05), ("activation", 0.1)):
            noisy = rows + noise * draw.normal(size=rows.shape)
            noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
            table[space] = (noisy @ noisy.T)[a, b]
        return similarity_figure(table, agreement_of_spaces(table), CAPTION)

    def shared() -> Figure:
        n = np.sort(2 + draw.geometric(0.4, max(count // 3, 2)))[::-1]
        table = pd.DataFrame({**layers(len(n)), "n": n, "classes": [", ".join(of[:k]) for k in n]})
        return shared_figure(table, 10, "contribution", CAPTION)

    def sums() -> Figure:
        first, second = layers(20), layers(20)
        table = pd.DataFrame({"layer_a": first["layer"], "unit_a": first["unit"], "layer_b": second["layer"]})
        table = table.assign(unit_b=second["unit"], a=draw.normal(0, 1, 20), b=draw.normal(0, 1, 20))
        table = table.assign(sum=draw.normal(3, 1, 20), passes=draw.uniform(size=20) > 0.2)
        return sums_figure(table, name, "margin", CAPTION)

    def composed() -> Figure:
        pairs = draw.integers(0, 30_000, count) * (draw.uniform(size=count) > 0.1)
        table = pd.DataFrame({"class": of, "class_a": of[::-1], "class_b": of, "pairs": pairs})
        table = table.assign(a=draw.normal(-1, 0.3, count), b=draw.normal(-1, 0.3, count), sum=draw.gamma(2, 1, count))
        return composed_figure(table.assign(passes=table["sum"] > 0.5), "margin", CAPTION)

    def sets() -> Figure:
        rows = [
            {"set": s, "size": k, "value": s / 9 + k, "by_score": 1.1 * k, "chance": 0.4 * k,
             "layer": "blocks.5.mlp.fc1", "unit": k * s}
            for s in range(1, 6)
            for k in range(1, 5)
        ]  # fmt: skip
        return sets_figure(pd.DataFrame(rows), name, "margin", CAPTION)

    def neurons() -> pd.DataFrame:
        table = pd.DataFrame(layers(blocks * 400))
        table["positive_share"], table["auroc"] = draw.beta(1, 5, len(table)), draw.beta(8, 3, len(table))
        return table.assign(dead=draw.uniform(size=len(table)) < 0.1, no_region=draw.uniform(size=len(table)) < 0.2)

    def concepts() -> Figure:
        table = neurons().assign(iou=lambda t: draw.beta(1, 15, len(t)))
        concept = np.array(of, object)[draw.integers(0, count, len(table))]
        return concepts_figure(table.assign(label=pd.Series(concept).where(table.iou > 0.04)), CAPTION)

    def lines() -> Figure:
        rows = [
            {"block": b, "tokens": t, "n": 50, "agreement": b / 30 + (t == "cls") / 10, "chance": 0.01, "v": b / 40}
            for b in range(blocks)
            for t in ("cls", "patches", "all")
        ]  # fmt: skip
        labels = {"agreement": "key-value agreement", "v": "class-value agreement"}
        return lines_figure(pd.DataFrame(rows), labels, {"agreement": "chance", "v": "chance"}, CAPTION)

    def fires() -> Figure:
        table = pd.DataFrame(layers(300)).assign(tokens=draw.geometric(0.1, 300), score=draw.normal(0, 1, 300))
        return fires_figure(table.assign(rank_in_unit=draw.integers(1, count, 300), **{"class": name}), CAPTION)

    def ablated() -> Figure:
        measures = ["logit", "margin", "probability", "accuracy", "others_logit", "others_accuracy"]
        table = pd.DataFrame({"measure": measures, "n": 50, "change": draw.normal(-0.5, 0.3, 6), "se": 0.1})
        table = table.assign(random_low=-0.2, random_high=0.1, passes=table.change < -0.2)
        return ablation_figure(table, CAPTION)

    def rankings() -> Figure:
        named = ("score", "probability", "cosine", "folded", "contribution", "auroc", "effect")
        table = pd.DataFrame([{"ranking": by, "k": k, "classes": count} for by in named for k in (1, 3, 10, 30)])
        for measure in ("logit", "others_logit", "accuracy", "others_accuracy"):
            loss = -draw.uniform(0, 0.02, len(table)) * table.k
            table = table.assign(**{measure: loss, f"random_{measure}": loss / 20, f"{measure}_se": 1 / count**0.5})
        return rankings_figure(table, CAPTION)

    def regions() -> Figure:
        pixels = draw.integers(0, 255, (4, 96, 96, 3)).astype(np.uint8)
        owners = [np.repeat(np.arange(-1, 7), 12)[None, :, None] + np.zeros((3, 1, 96), np.int64) for _ in range(4)]
        ten = pd.DataFrame({**layers(10), "negative": [False] * 9 + [True]})
        return draw_regions(Regions(pixels, owners, [None] * 4, ten, (1, 3, 10)), f"{name}: {CAPTION}", "best on top")

    def generated() -> Figure:
        pixels = list(draw.integers(0, 255, (4, 96, 96, 3)).astype(np.uint8))
        columns = [Column(f"step {step}", pixels, [f"mean 1.2, {name}"] * 4) for step in (32, 64, 128)]
        return draw_columns(f"blocks.5.mlp.fc1:17, of {name}\n{CAPTION}", columns)

    return {
        "blocks": blocks_of, "activations": activations, "focus": focus, "context": context, "carriers": carriers,
        "similarity": similarity, "shared": shared,
        "pairs": sums, "composed": composed, "sets": sets, "concepts": concepts, "fires": fires, "regions": regions,
        "selectivity": lambda: selectivity_figure(neurons(), 0.55, CAPTION), "agreement": lines, "generated": generated,
        "ablate": ablated, "rankings": rankings,
    }  # fmt: skip


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for number in COUNTS:
        for long_names in (False, True) if number == 100 else (False,):
            for title, make in figures(names(number, long_names)).items():
                make().savefig(folder / f"{title}-{number}{'-long' * long_names}.png")
