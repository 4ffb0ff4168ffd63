"""The figures of dissection against direct computations on the reference: plain torch, plain hooks, brute force."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import SAMPLE, Reference
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import CenterCrop, InterpolationMode, Resize  # type: ignore[import-untyped]
from vitdex.query.commands.main import cli
from vitdex.query.dissect.agreement import class_value_agreement, key_value_agreement
from vitdex.query.dissect.classes import activations_of_class, carried_by_first, class_blocks
from vitdex.query.dissect.composition import composition
from vitdex.query.dissect.concepts import LABEL_IOU, concept_overlaps, neuron_concepts, overlaps
from vitdex.query.dissect.firing import firing_neurons
from vitdex.query.dissect.focus import class_focus
from vitdex.query.dissect.masks import Masks, open_masks
from vitdex.query.dissect.regions import class_regions, region_unions
from vitdex.query.dissect.selectivity import selectivity
from vitdex.query.dissect.sharing import own_neurons, shared_neurons
from vitdex.query.dissect.similarity import class_similarity
from vitdex.query.dissect.sum_search import Measure
from vitdex.query.dissect.value_sums import composed_classes, neuron_pairs, neuron_sets
from vitdex.query.index import Index
from vitdex.query.lookups.neuron import quantiles
from vitdex.schemas.errors import QueryError

LAST = "blocks.5.mlp.fc1"


def value_scores(reference: Reference, block: int) -> NDArray[np.float32]:
    """P[c, j] straight from the weights."""
    model: Any = reference.model
    product = model.head.weight @ model.blocks[block].mlp.fc2.weight
    found: NDArray[np.float32] = product.detach().numpy()
    return found


def direct_mask(path: str) -> NDArray[np.bool_]:
    mask = Image.open(SAMPLE / "masks" / Path(path).with_suffix(".png")).convert("L")
    return np.asarray(CenterCrop(96)(Resize(96, InterpolationMode.NEAREST)(mask))) > 0


def direct_pixels(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps [n, 8, 8] upsampled by torch."""
    return interpolate(torch.from_numpy(maps)[:, None], (96, 96), mode="bilinear")[:, 0].numpy()


def rows(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples())


def classes_of(reference: Reference) -> NDArray[np.str_]:
    return np.array([path.split("/")[0] for path in reference.paths])


def test_masks_follow_the_image(sample: Index, reference: Reference) -> None:
    masks = open_masks(sample)
    for image_id in (0, 133, 479):
        seen = masks.object(image_id)
        assert seen is not None
        assert np.array_equal(seen, direct_mask(reference.paths[image_id]))


def test_masks_of_other_sizes_and_class_values(sample: Index, tmp_path: Path) -> None:
    from vitdex.data.images.preprocess import Preprocess

    values = np.random.default_rng(0).integers(0, 4, (301, 433), np.uint8)
    values[0] = 232  # with green 3: 1000, void
    green = np.where(values == 232, 3, 0).astype(np.uint8)
    Image.fromarray(np.dstack([values, green, np.zeros_like(values)])).save(tmp_path / "one.png")
    preprocess = Preprocess({**sample.spec.preprocessing, "crop_pct": 0.875})
    preprocess.resize.interpolation = InterpolationMode.NEAREST
    direct, crop = preprocess(Image.fromarray(values))
    box = dict(zip(("left", "top", "right", "bottom"), crop, strict=True))
    masks = Masks(sample, tmp_path, ("ant", "bee", "cat"))
    row = {"image_id": 5, "path": "one.jpg", "label": "bee", "class": None, "wnid": None, "width": 433, "height": 301}
    masks.__dict__["images"] = pd.DataFrame([{**row, "crop": box}], index=[5])
    assert np.array_equal(np.asarray(masks.values(5)), np.where(direct == 232, 0, direct))
    assert np.array_equal(np.asarray(masks.object(5)), direct == 2)
    assert {k: v.sum() for k, v in masks.of_concepts(5).items()} == {k: (direct == k + 1).sum() for k in range(3)}


def test_focus_equals_the_model(sample: Index, reference: Reference) -> None:
    """The first neuron's and the random ones' figures, from the reference's activations and the files of masks."""
    found = class_focus(sample, open_masks(sample), "score", random=3, seed=7).set_index("class").loc["building"]
    scores = np.stack([value_scores(reference, b) for b in range(6)])[:, 1]
    assert (found.block, found.unit) == np.unravel_index(scores.argmax(), scores.shape)
    others = np.delete(np.arange(768), found.unit)
    draw = np.random.default_rng((7, 1)).choice(others, 3, replace=False)
    ids = np.flatnonzero(classes_of(reference) == "building")
    masks = np.stack([direct_mask(reference.paths[i]) for i in ids])
    cover = masks.reshape(-1, 8, 12, 8, 12).mean((2, 4)).reshape(-1, 64)
    energy, pointing, iou = [], [], []
    for unit in [found.unit, *draw]:
        values = reference.fc1[str(found.layer)][:, 1:, unit]
        positive = values[ids].clip(0)
        some = positive.sum(1) > 0
        energy.append(((positive * cover).sum(1)[some] / positive.sum(1)[some]).mean() if some.any() else np.nan)
        pointing.append((cover[np.arange(40), values[ids].argmax(1)] > 0.5).mean())
        active = direct_pixels(values[ids].reshape(-1, 8, 8)) > np.quantile(values, 0.99, method="hazen")
        iou.append(((active & masks).sum((1, 2)) / (active | masks).sum((1, 2))).mean())
    assert found.energy == pytest.approx(energy[0], abs=0.01)  # maps are bytes
    assert found.random_energy == pytest.approx(np.nanmean(energy[1:]), abs=0.01)
    assert (found.pointing, found.random_pointing) == pytest.approx((pointing[0], np.mean(pointing[1:])))
    assert (found.iou, found.random_iou) == pytest.approx((iou[0], np.mean(iou[1:])), abs=0.005)
    assert found.mask_share == pytest.approx(masks.mean())
    assert found.n == found.images - found.no_energy
    assert found.no_energy == sum(reference.fc1[str(found.layer)][i, 1:, found.unit].max() <= 0 for i in ids)
    assert found.exceeds == (found.energy > max(found.mask_share, found.random_energy))


def test_regions_and_unions_are_pixel_exact(sample: Index) -> None:
    masks = open_masks(sample)
    of = class_regions(sample, "fruit", 3, "score", masks=masks)
    together = region_unions(sample, "fruit", (1, 3), "score", masks=masks)
    image_id = int(of.image_id[0])
    neurons = sample.key_neurons("fruit", 3, "score")
    active, own_region = [], []
    for rank, n in enumerate(rows(neurons)):
        q99 = quantiles(sample, n.layer, [n.unit], "q99")[0]
        active.append(direct_pixels(sample.map(n.layer, n.unit, image_id)[None])[0] > q99)
        own_region.append(q99 >= 0)
        row = of[(of.image_id == image_id) & (of["rank"] == rank + 1)].iloc[0]
        assert row.cover == active[-1].mean()
        assert row.negative == (q99 < 0)
    assert not all(own_region)  # fruit's first neuron has a negative threshold: flagged, and left out of unions
    union = np.any([a for a, o in zip(active, own_region, strict=True) if o], axis=0)
    mask = masks.object(image_id)
    row = together[(together.image_id == image_id) & (together.top == 3)].iloc[0]
    assert row.iou == (union & mask).sum() / (union | mask).sum()
    assert row.neurons == sum(own_region)
    assert (together[together.top == 1].cover == 0).all()


def test_concepts_are_pixel_exact(sample: Index, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vitdex.query.dissect.concepts.MAPS_AT_ONCE", 7 * 100 * 64
    )  # several blocks of units in each part
    masks, layer = open_masks(sample), replace(sample.spec.layers[5], units=20)
    q99 = quantiles(sample, LAST, range(20), "q99")
    (found,) = overlaps(sample, masks, layer, q99)
    objects = np.stack([direct_mask(path) for path in reference.paths])
    of = classes_of(reference)
    for unit in (0, 6, 19):
        maps = np.stack([sample.map(LAST, unit, i) for i in range(480)])
        active = direct_pixels(maps) > q99[unit]
        both = [(active & objects)[of == name].sum() for name in masks.concepts]
        labelled = [objects[of == name].sum() for name in masks.concepts]
        assert found.active[unit] == active.sum()
        assert found.both[unit].tolist() == both
        assert found.labelled.tolist() == labelled
        iou = np.array(both) / (active.sum() + np.array(labelled) - np.array(both))
        np.testing.assert_allclose(found.iou[unit], iou)


def test_labels_are_best_concepts_above_the_bar(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(sample.spec, layers=(replace(sample.spec.layers[5], units=60),))
    sample.sql("FROM classes")  # the tables are held against the whole spec
    monkeypatch.setattr(sample, "spec", small)
    masks = open_masks(sample)
    every, best = concept_overlaps(sample, masks), neuron_concepts(sample, masks)
    table = every.pivot(index="unit", columns="concept", values="iou")
    assert best.iou.tolist() == table.max(axis=1).tolist()
    labelled = best[best.label.notna()]
    assert 0 < len(labelled) < 60
    assert (labelled.label == table.idxmax(axis=1)[labelled.unit].to_numpy()).all()
    assert (best.label.notna() == ((best.iou > LABEL_IOU) & (best.threshold >= 0))).all()


def test_concepts_of_a_drawing_are_those_of_other_images(sample: Index, reference: Reference) -> None:
    masks, layer = open_masks(sample), replace(sample.spec.layers[5], units=20)
    ids = masks.images.image_id.tolist()
    drawing = dict(zip(ids, [*ids[100:], *ids[:100]], strict=True))
    own, drawn = overlaps(sample, masks, layer, quantiles(sample, LAST, range(20), "q99"), [drawing])
    objects, of = np.stack([direct_mask(path) for path in reference.paths]), classes_of(reference)
    maps = np.stack([sample.map(LAST, 6, i) for i in range(480)])
    active = direct_pixels(maps) > quantiles(sample, LAST, [6], "q99")[0]
    others = [drawing[i] for i in range(480)]
    assert drawn.active.tolist() == own.active.tolist()
    assert drawn.labelled.tolist() == own.labelled.tolist()  # everybody's masks, once
    assert drawn.both[6].tolist() == [(active & objects[others])[of[others] == n].sum() for n in masks.concepts]


def test_masks_that_tell_nothing_pass_once_in_twenty(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = open_masks(sample)
    order = np.random.default_rng(7).permutation(masks.images.image_id.to_numpy()).tolist()
    stranger = dict(zip(order, [*order[1:], order[0]], strict=True))
    told = neuron_concepts(sample, masks, layer=LAST)
    of_concepts = Masks.of_concepts
    monkeypatch.setattr(Masks, "of_concepts", lambda masks, i: of_concepts(masks, stranger[i]))
    untold = neuron_concepts(sample, masks, layer=LAST)
    assert untold.passes.mean() < 0.09  # 768 neurons, but few independent ones
    assert told.passes.mean() > 0.5
    assert (told.passes == (told.iou > told.chance)).all()


def test_class_stories_equal_the_weights(sample: Index, reference: Reference) -> None:
    scores = np.concatenate([value_scores(reference, b) for b in range(6)], 1)
    order = np.argsort(-scores, 1, kind="stable")
    table = class_blocks(sample, (1, 3), "score")
    for top in (1, 3):
        counts = np.bincount(order[:, :top].reshape(-1) // 768, minlength=6)
        assert table[table.top == top].neurons.tolist() == counts.tolist()
        assert table[table.top == top].share.tolist() == (counts / counts.sum()).tolist()
    of_first = (
        carried_by_first(sample, 4, "score").pivot(index="class_id", columns="rank", values="of_first").to_numpy()
    )
    best = np.take_along_axis(scores, order[:, :4], 1)
    np.testing.assert_allclose(of_first, best / best[:, :1], rtol=1e-4)
    ten = pd.DataFrame({"neuron": order[:, :10].reshape(-1), "class_id": np.repeat(np.arange(12), 10)})
    groups = ten.groupby("neuron").class_id.size()
    assert sorted(shared_neurons(sample, 10, "score").n) == sorted(groups[groups > 1])
    mine = own_neurons(sample, "score")
    assert mine.first_of.tolist() == np.bincount(scores.argmax(0), minlength=12).tolist()
    assert mine.own.tolist() == [scores[:, order[c, 0]].argmax() == c for c in range(12)]


def test_carried_shares_of_contributions(sample: Index) -> None:
    every = sample.sql("SELECT contribution AS x FROM class_activations WHERE class_id = 4").x.astype(float)
    row = carried_by_first(sample, 2, "score").query("class_id == 4 and rank == 2").iloc[0]
    assert row.of_positive == pytest.approx(row.contribution / every.clip(lower=0).sum())


def test_activations_on_a_class_and_on_all_others(sample: Index, reference: Reference) -> None:
    table = activations_of_class(sample, "coin", 3, "score")
    assert table.groupby("blocks").size().to_dict() == {"all": 3, **{str(b): 3 for b in range(6)}}
    coins = classes_of(reference) == "coin"
    for row in rows(table):
        values = reference.fc1[row.layer][:, :, row.unit]
        patches = values[:, 1:].max(1), values[:, 1:].mean(1)
        gelu = torch.nn.functional.gelu(torch.from_numpy(values)).numpy()
        direct = [(v[coins].mean(), v[~coins].mean()) for v in (*patches, gelu[:, 1:].mean(1), gelu[:, 0])]
        names = ("mean_max", "mean", "post_mean", "cls_post_mean")
        found = [(getattr(row, name), getattr(row, f"{name}_others")) for name in names]
        np.testing.assert_allclose(found, direct, rtol=1e-3, atol=1e-4)


def test_selectivity(sample: Index, reference: Reference) -> None:
    table = selectivity(sample, LAST).set_index("unit")
    of = classes_of(reference)
    for unit in (0, 9, 500):
        maxima = reference.fc1[LAST][:, 1:, unit].max(1)
        auroc = {n: (maxima[of == n][:, None] > maxima[of != n]).mean() for n in np.unique(of)}
        row = table.loc[unit]
        assert (row["class"], row.worst_class) == (max(auroc, key=auroc.__getitem__), min(auroc, key=auroc.__getitem__))
        two_pairs = 2 / (40 * 440)  # of images, whose maxima differ in their last digits, may swap
        assert row.auroc == pytest.approx(max(auroc.values()), abs=two_pairs)
        assert row.positive_share == pytest.approx((reference.fc1[LAST][:, 1:, unit] > 0).mean(), abs=1e-5)
    assert table.dead.sum() == (reference.fc1[LAST].max((0, 1)) <= 0).sum()


def test_agreement_equals_the_model(sample: Index, reference: Reference) -> None:
    names = np.unique(classes_of(reference)).tolist()
    truth = np.array([names.index(n) for n in classes_of(reference)])
    found = key_value_agreement(sample).pivot(index="block", columns="tokens", values="agreement")
    nearest = class_value_agreement(sample).agreement
    for block in range(6):
        loudest = np.argsort(-value_scores(reference, block), 1)[:, :5]
        top = torch.from_numpy(reference.fc1[f"blocks.{block}.mlp.fc1"]).topk(5, -1).indices.numpy()
        agree = np.array([[len({*t} & {*loudest[c]}) > 0 for t in image] for image, c in zip(top, truth, strict=True)])
        direct = (agree.mean(), agree[:, 0].mean(), agree[:, 1:].mean())
        assert tuple(found.loc[block, ["all", "cls", "patches"]]) == pytest.approx(direct, abs=2e-4)
        head = reference.model.head.weight.detach()  # type: ignore[union-attr, operator]
        vectors = reference.model.blocks[block].mlp.fc2.weight.detach()  # type: ignore[union-attr, index]
        cosine = torch.cosine_similarity(head[:, :, None], vectors[None], dim=1)
        assert nearest[block] == pytest.approx(cosine.max(1).values.mean().item(), abs=1e-5)
    # five of 768 drawn twice: 1 - (763 choose 5) / (768 choose 5)
    assert key_value_agreement(sample).chance[0] == pytest.approx(
        1 - np.prod([(763 - i) / (768 - i) for i in range(5)])
    )


def test_composition_equals_the_model(sample: Index, reference: Reference) -> None:
    found = composition(sample).query("tokens == 'all'").set_index("block")
    names = np.unique(classes_of(reference)).tolist()
    truth = torch.tensor([names.index(n) for n in classes_of(reference)])
    model: Any = reference.model
    pixels = np.asarray(sample.arrays["inputs"][:])
    kept: dict[int, list[torch.Tensor]] = {1: [], 5: []}
    hooks = [
        module.register_forward_hook(lambda m, a, out, outputs=outputs: outputs.append(out))
        for block, outputs in kept.items()
        for module in (model.blocks[block].mlp.fc2, model.blocks[block])
    ]
    with torch.inference_mode():
        model((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    for hook in hooks:
        hook.remove()
    for block, outputs in kept.items():
        with torch.inference_mode():
            written, stream = (model.head(model.norm(x)) for x in outputs)
        own_top = torch.from_numpy(value_scores(reference, block).argmax(0))
        top = own_top[torch.from_numpy(reference.fc1[f"blocks.{block}.mlp.fc1"]).topk(5, -1).indices]
        match = (top == written.argmax(-1, keepdim=True)).any(-1).float().mean().item()
        rank = (stream > stream.gather(-1, truth[:, None, None].expand(-1, 65, 1))).sum(-1)
        assert found.match[block] == pytest.approx(match, abs=1e-3)
        assert found.compositional[block] == pytest.approx(1 - match, abs=1e-3)
        assert found.identifiability[block] == pytest.approx((1 - rank / 12).mean().item(), abs=1e-3)


@pytest.mark.parametrize("by", ["probability", "margin"])
def test_sums_equal_brute_force(sample: Index, reference: Reference, by: Measure) -> None:
    scores = np.concatenate([value_scores(reference, b) for b in range(6)], 1).astype(np.float64)

    def value(*neurons: int, c: int = 3) -> float:
        s = torch.from_numpy(scores[:, list(neurons)].sum(1))
        rest = torch.cat([s[:c], s[c + 1 :]])
        return float(s.softmax(0)[c] if by == "probability" else s[c] - rest.max())

    some = np.argsort(-scores[3])[:30].tolist()
    gains = {(a, b): value(a, b) - max(value(a), value(b)) for a, b in itertools.combinations(some, 2)}
    best = sorted(gains, key=gains.__getitem__, reverse=True)[:5]
    found = neuron_pairs(sample, "flower", by, candidates=30, k=5)
    np.testing.assert_allclose(found.gain, [gains[p] for p in best], atol=1e-5)
    np.testing.assert_allclose(found["sum"], [value(*p) for p in best], atol=1e-5)
    twice = [value(a, b) - max(value(a, a), value(b, b)) for a, b in best]
    np.testing.assert_allclose(found.over_twice, twice, atol=1e-5)

    members = list(best[0])
    while len(members) < 4:
        members.append(max((n for n in some if n not in members), key=lambda n: value(*members, n)))
    grown = neuron_sets(sample, "flower", 4, by, candidates=30, starts=1)
    assert grown.value.iloc[-1] == pytest.approx(value(*members), abs=1e-5)
    assert {(int(r.layer.split(".")[1]), r.unit) for r in rows(grown)} == {divmod(m, 768) for m in members}
    assert grown.by_score.iloc[-1] == pytest.approx(value(*some[:4]), abs=1e-5)

    strangers = [n for n in np.argsort(-scores[3]) if scores[:, n].argmax() != 3][:20]
    winning = [p for p in itertools.combinations(strangers, 2) if scores[:, p].sum(1).argmax() == 3]
    row = composed_classes(sample, by, candidates=20).iloc[3]
    assert row.pairs == len(winning) > 0
    assert row["sum"] == pytest.approx(max(value(*p) for p in winning), abs=1e-5)


def test_from_image_to_neurons(sample: Index, reference: Reference) -> None:
    scores = value_scores(reference, 5)
    top = torch.from_numpy(reference.fc1[LAST][100]).topk(5, -1).indices.numpy()
    names = sample.sql("SELECT class FROM classes ORDER BY class_id")["class"]
    everywhere = firing_neurons(sample, 100, layer=LAST).set_index("unit")
    units, counts = np.unique(top, return_counts=True)
    assert everywhere.tokens[units].tolist() == counts.tolist()
    assert everywhere["first"][units].tolist() == [(top[:, 0] == u).sum() for u in units]
    here = firing_neurons(sample, reference.paths[100], patch=12, layer=LAST)
    assert set(here.unit) == set(top[13])
    assert set(firing_neurons(sample, 100, "cls", LAST).unit) == set(top[0])
    values = reference.fc1[LAST][100]
    largest = everywhere.activation[units].to_numpy()
    np.testing.assert_allclose(largest, values[:, units].max(0), rtol=1e-4)
    for row in rows(here):
        assert row.activation == pytest.approx(values[13, row.unit], abs=float(np.ptp(values[1:, row.unit])) / 500)
        assert (row.says, row[8]) == (names[scores[:, row.unit].argmax()], "coin")
        assert row.score == pytest.approx(scores[2, row.unit], abs=1e-5)  # image 100 is a coin
        assert row.rank_in_unit == (scores[:, row.unit] > scores[2, row.unit]).sum() + 1
        assert row.rank_in_layer == (scores[2] > scores[2, row.unit]).sum() + 1


def test_errors_are_one_line_with_the_remedy(sample: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QueryError, match="no folder of masks at .*nowhere. Give --masks DIR"):
        open_masks(sample, tmp_path / "nowhere")
    with pytest.raises(QueryError, match="mirrors an image. It should hold bird/000.png"):
        open_masks(sample, tmp_path)
    with pytest.raises(QueryError, match="no patch '64'. Patches count from 0 to 63, or 'cls'"):
        firing_neurons(sample, 0, 64)
    with pytest.raises(QueryError, match="no measure 'score' of a sum. One of probability, margin"):
        neuron_pairs(sample, "coin", "score")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="no threshold 'q5'"):
        class_regions(sample, "coin", threshold="q5")
    masks = open_masks(sample)
    monkeypatch.setattr(sample, "spec", replace(sample.spec, images_sha256="other", maps="none", classes=0))
    with pytest.raises(QueryError, match="only an index of the packaged sample's images brings its own. Give --masks"):
        open_masks(sample)
    with pytest.raises(QueryError, match="does not hold the maps of all images. Index again with --maps uint8"):
        neuron_concepts(sample, masks)
    for ask in (class_value_agreement, key_value_agreement, composed_classes, class_similarity):
        with pytest.raises(QueryError, match="its model has no head. Index again with --head FILE"):
            ask(sample)


def test_the_commands_print_and_draw(sample_path: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = run(
        cli, ["dissect", "blocks", str(sample_path), "--json", "-o", str(tmp_path / "b.png")], catch_exceptions=False
    )
    assert sum(row["neurons"] for row in json.loads(out.stdout) if row["top"] == 1) == 12
    out = run(cli, ["dissect", "regions", str(sample_path), "coin", "--csv", "-o", str(tmp_path / "r.png")])
    assert len(out.stdout.splitlines()) == 1 + 40 * 3
    for picture in ("b.png", "r.png"):
        assert Image.open(tmp_path / picture).width > 500
    out = run(cli, ["dissect", "shared", str(sample_path), "-o", str(tmp_path / "x.txt")])
    assert "x.txt' is of no kind that can be written here. One of .png, .jpg" in str(out.exception)
