"""Every public name as a user's script would use it: run on the sample by test_face.py, type-checked with the tests.

python every_name.py INDEX FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from numpy import float32
from numpy.typing import NDArray
from pandas import DataFrame
from vitdex import query
from vitdex.query import (
    Heatmaps,
    Index,
    InsertionDeletion,
    LiveModel,
    MapSource,
    Masks,
    Neuron,
    NeuronCard,
    StoredIndex,
    Target,
)

NEURON = Neuron.of("blocks.5.mlp.fc1:16")


def look_up(index: Index) -> None:
    ranking: str = query.default_ranking(index, "coin")
    key: DataFrame = query.key_neurons(index, "coin", k=3, by="score", layer=NEURON.layer)
    first: DataFrame = query.first_neurons(index, k=1)
    assert ranking == index.key_neurons("coin").attrs["by"]
    assert len(key) == 3
    assert len(first) == len(index.classes)
    images: DataFrame = query.class_images(index, "coin", k=2)
    assert len(query.labelled_images(index)) > len(images)
    classes: DataFrame = query.classes_of(index, *NEURON, k=2)
    threshold: NDArray[float32] = query.quantiles(index, NEURON.layer, [NEURON.unit], "q99")
    top: DataFrame = query.top_images(index, [NEURON, "blocks.4.mlp.fc1:473", ("blocks.4.mlp.fc1", 9)], 3, "min")
    near: DataFrame = query.neighbours(index, 0, [NEURON.layer], 3, "l1")
    assert all(len(found) for found in (classes, threshold, top, near))
    done = query.publish(index, index.layout.root.with_name("published"), maps="exemplars", overwrite=True)
    assert done.files
    card: NeuronCard = query.neuron(index, *NEURON)
    assert card.unit == NEURON.unit
    assert not query.verify(index.layout.root, quick=True)


def draw(index: Index, out: Path) -> None:
    maps: Heatmaps = query.neuron_heatmaps(index, [NEURON], ["coin/003.jpg"], "contribution", "coin")
    maps.picture().save(out / "one.png")
    query.class_heatmaps(index, "coin", k=1, images=1, by="folded").picture().save(out / "class.png")
    judged: InsertionDeletion = query.insertion_deletion(
        index, "coin", k=1, views=["effect", "centre"], images=1, steps=2, random=1, progress=lambda done, total: None
    )
    assert len(judged.curves) == 2 * 2 * 3
    query.regions_figure(index, "coin", images=1).savefig(out / "regions.png")
    query.milan_sheet(index, NEURON, k=2).savefig(out / "sheet.png")
    rows: DataFrame = query.generate_images(index, Target((NEURON,)), "default", 1, snapshots=[1])
    query.generated_figure(index, rows).savefig(out / "made.png")


def dissect(index: Index) -> list[DataFrame]:
    masks: Masks = query.open_masks(index)
    every: DataFrame = query.selectivity(index, NEURON.layer)
    return [
        query.class_blocks(index),
        query.carried_by_first(index),
        query.activations_of_class(index, "coin"),
        query.shared_neurons(index, top=10),
        query.own_neurons(index),
        (carriers := query.carrier_neurons(index)),
        query.carried_classes(index, carriers, k=3),
        (alike := query.class_similarity(index)),
        query.class_trees(alike),
        query.agreement_of_spaces(alike),
        query.selectivity_by_block(every),
        query.class_value_agreement(index),
        query.key_value_agreement(index),
        query.composition(index, progress=lambda done, total: None),
        query.logit_terms(index, "coin", k=2, progress=lambda done, total: None),
        query.neuron_pairs(index, "coin", "margin", candidates=3),
        query.neuron_sets(index, "coin", candidates=3),
        query.composed_classes(index, candidates=3),
        query.firing_neurons(index, 0, "cls"),
        query.class_regions(index, "coin", k=1, masks=masks),
        query.region_unions(index, "coin", masks=masks),
        query.class_focus(index, masks, random=2),
        query.class_context(index, masks, k=2),
        query.neuron_concepts(index, masks, layer=NEURON.layer),
        query.concept_overlaps(index, masks, layer=NEURON.layer),
    ]


def exchange(index: Index, out: Path) -> None:
    assert query.export_tables(index, out / "tables", "csv", ["neurons"])["neurons"] == index.spec.neurons
    assert query.export_milan(index, out / "milan", [NEURON.layer], [NEURON.unit], k=2, size=32).k == 2
    assert len(query.export_clip_dissect(index, out / "clip", [NEURON.layer], ["max"])) == 1
    assert query.export_embedding_atlas(index, out / "neurons.parquet", "scores") == index.spec.neurons
    (out / "said.csv").write_text(f"layer,unit,description\n{NEURON.layer},{NEURON.unit},coins\n")
    assert query.import_descriptions(index, out / "said.csv", "me") == 1
    assert index.sql("FROM descriptions").description.tolist() == ["coins"]  # seen though the index was open


def run_the_model(stored: StoredIndex) -> None:
    live: LiveModel = query.open_model(stored, device="cpu")
    anew = live.maps(NEURON.layer, [NEURON.unit], [0])
    removed: DataFrame = query.compare_rankings(
        stored, (1,), ["coin", "bird"], ("score", "contribution"), images=1, random=1
    )
    assert len(query.ranking_means(removed)) == 2 * len(query.ranking_pairs(removed, measure="margin"))
    assert len(query.ablate(stored, "coin", [NEURON], images=1, random=0)) > 0
    assert anew.shape == MapSource(stored)(NEURON.layer, [NEURON.unit], [0]).shape


def causes(stored: StoredIndex, out: Path) -> None:
    with StoredIndex(shutil.copytree(stored.layout.root, out / "copy.vitdex")) as plain:
        place: Path | str = query.measure_effects(plain, masks=query.open_masks(plain), classes=["coin"])
    with Index(Path(place).parents[1]) as index:
        found: DataFrame = query.subject_effects(index, k=2, random=2)
        assert found["class"].tolist() == ["coin"]


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    with Index(sys.argv[1]) as opened:
        look_up(opened)
        draw(opened, folder)
        assert all(len(table) for table in dissect(opened))
        exchange(opened, folder)
        run_the_model(opened)
        causes(opened, folder)
