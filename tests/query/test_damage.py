"""A flipped byte is DamagedIndex, with the same remedy, through every public function and command that reads it.

The doors are found by themselves: every name of `vitdex.query`, every method of `Index`, every command. Each needs one
way to be asked here; a new one without it fails. Which of them read a file is seen by asking them on a whole index.
The index has effects, which have files and a remedy of their own: see test_effects_faults.py.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import vitdex.query as query
from click.testing import CliRunner
from safetensors.numpy import save_file
from vitdex.query import Index, Neuron, Target
from vitdex.query.commands.main import cli
from vitdex.schemas.errors import REPAIR, DamagedIndex
from vitdex.schemas.storage.local_store import LocalStore

LAYER, UNIT = "blocks.5.mlp.fc1", 16
NEURON = Neuron(LAYER, UNIT)
Ask = Callable[[Index, Path], Any]

ASKING_NO_TABLE = {
    "close",
    "descriptions",
    "import_descriptions",
    "inputs",
    "map",
    "MapSource",
    "neuron_layer",
    "open_model",
    "atlas",
    "readable",
    "vectors_of",
    "verify",
}
# What is no question: kinds of things that the questions take or give.
RECORDS = {
    "Index", "StoredIndex", "Neuron", "Heatmaps", "NeuronCard", "LiveModel", "Masks", "Target", "InsertionDeletion",
}  # fmt: skip

FUNCTIONS: dict[str, Ask] = {
    "ablate": lambda i, _: query.ablate(i, "coin", k=1, images=1, random=1),
    "activations_of_class": lambda i, _: query.activations_of_class(i, "coin"),
    "carried_by_first": lambda i, _: query.carried_by_first(i),
    "carried_classes": lambda i, _: query.carried_classes(i, query.carrier_neurons(i)),
    "carrier_neurons": lambda i, _: query.carrier_neurons(i),
    "class_blocks": lambda i, _: query.class_blocks(i),
    "class_context": lambda i, _: query.class_context(i, query.open_masks(i), k=2),
    "class_focus": lambda i, _: query.class_focus(i, query.open_masks(i), random=2),
    "class_heatmaps": lambda i, _: query.class_heatmaps(i, "coin", 1, 1),
    "class_images": lambda i, _: query.class_images(i, "coin"),
    "class_regions": lambda i, _: query.class_regions(i, "coin", 1),
    "class_similarity": lambda i, _: query.class_similarity(i),
    "class_trees": lambda i, _: query.class_trees(query.class_similarity(i)),
    "agreement_of_spaces": lambda i, _: query.agreement_of_spaces(query.class_similarity(i)),
    "class_value_agreement": lambda i, _: query.class_value_agreement(i),
    "classes_of": lambda i, _: query.classes_of(i, LAYER, UNIT),
    "compare_rankings": lambda i, _: removed(i),
    "composed_classes": lambda i, _: query.composed_classes(i, candidates=3),
    "composition": lambda i, _: query.composition(i),
    "concept_overlaps": lambda i, _: query.concept_overlaps(i, query.open_masks(i), layer=LAYER),
    "default_ranking": lambda i, _: query.default_ranking(i),
    "export_clip_dissect": lambda i, out: query.export_clip_dissect(i, out, [LAYER]),
    "export_embedding_atlas": lambda i, out: query.export_embedding_atlas(i, out / "neurons.parquet"),
    "export_milan": lambda i, out: query.export_milan(i, out / "milan", [LAYER], [UNIT], k=2, size=32),
    "export_tables": lambda i, out: query.export_tables(i, out),
    "firing_neurons": lambda i, _: query.firing_neurons(i, 0),
    "first_neurons": lambda i, _: query.first_neurons(i),
    "generate_images": lambda i, _: made(i),
    "generated_figure": lambda i, _: query.generated_figure(i, made(i)),
    "neuron_heatmaps": lambda i, _: query.neuron_heatmaps(i, [NEURON], [0]),
    "import_descriptions": lambda i, out: query.import_descriptions(i, csv(out), "me"),
    "insertion_deletion": lambda i, _: query.insertion_deletion(i, "coin", 1, images=1, steps=2, random=1),
    "key_neurons": lambda i, _: query.key_neurons(i, "coin"),
    "key_value_agreement": lambda i, _: query.key_value_agreement(i),
    "labelled_images": lambda i, _: query.labelled_images(i),
    "logit_terms": lambda i, _: query.logit_terms(i, "coin", k=2),
    "MapSource": lambda i, _: query.MapSource(i)(LAYER, [UNIT], [0]),
    "measure_effects": lambda i, _: measured(i),
    "milan_sheet": lambda i, _: query.milan_sheet(i, NEURON, 2),
    "neighbours": lambda i, _: query.neighbours(i, 0, [NEURON]),
    "neuron": lambda i, _: query.neuron(i, LAYER, UNIT).picture(),
    "neuron_concepts": lambda i, _: query.neuron_concepts(i, query.open_masks(i), layer=LAYER),
    "neuron_pairs": lambda i, _: query.neuron_pairs(i, "coin", candidates=3),
    "neuron_sets": lambda i, _: query.neuron_sets(i, "coin", candidates=3),
    "open_masks": lambda i, _: query.open_masks(i),
    "open_model": lambda i, _: query.open_model(i).maps(LAYER, [UNIT], [0]),
    "own_neurons": lambda i, _: query.own_neurons(i),
    "publish": lambda i, out: query.publish(i, out / "published", maps="exemplars"),
    "quantiles": lambda i, _: query.quantiles(i, LAYER, [UNIT], "q99"),
    "ranking_means": lambda i, _: query.ranking_means(removed(i)),
    "ranking_pairs": lambda i, _: query.ranking_pairs(removed(i)),
    "region_unions": lambda i, _: query.region_unions(i, "coin"),
    "regions_figure": lambda i, _: query.regions_figure(i, "coin", images=1),
    "selectivity": lambda i, _: query.selectivity(i),
    "selectivity_by_block": lambda i, _: query.selectivity_by_block(query.selectivity(i)),
    "shared_neurons": lambda i, _: query.shared_neurons(i),
    "subject_effects": lambda i, _: query.subject_effects(i, k=1, random=1),
    "top_images": lambda i, _: query.top_images(i, [NEURON]),
    "verify": lambda i, _: query.verify(i.layout.root, quick=True),
}
METHODS: dict[str, Ask] = {
    "atlas": lambda i, _: i.atlas(NEURON).close(),
    "class_heatmaps": lambda i, _: i.class_heatmaps("coin", 1, 1),
    "class_id": lambda i, _: i.class_id("coin"),
    "class_name": lambda i, _: i.class_name(2),
    "classes_of": lambda i, _: i.classes_of(LAYER, UNIT),
    "close": lambda i, _: i.close(),
    "exemplars": lambda i, _: i.exemplars(LAYER, UNIT),
    "heatmap": lambda i, _: i.heatmap(LAYER, UNIT, 0),
    "heatmaps": lambda i, _: i.heatmaps([NEURON], [0], "contribution", "coin"),
    "image_id": lambda i, _: i.image_id("coin/013.jpg"),
    "inputs": lambda i, _: i.inputs([0]),
    "key_neurons": lambda i, _: i.key_neurons("coin"),
    "logit_terms": lambda i, _: i.logit_terms("coin", "coin/013.jpg"),
    "look_up": lambda i, _: i.look_up("FROM neurons", []),
    "map": lambda i, _: i.map(LAYER, UNIT, 0),
    "neuron": lambda i, _: i.neuron(LAYER, UNIT),
    "neuron_layer": lambda i, _: i.neuron_layer(LAYER, UNIT),
    "readable": lambda i, _: i.readable(0),
    "sql": lambda i, _: i.sql(f"SELECT list_sum(activation_map('{LAYER}', {UNIT}, 0)) AS s"),
    "vectors_of": lambda i, _: i.vectors_of(LAYER),
    "verify": lambda i, _: i.verify(quick=True),
}
COMMANDS: dict[str, list[str]] = {
    "head": ["OUT/head.safetensors", "OUT/head.vitdex"],
    "info": [],
    "effects": ["--limit", "1"],
    "subject": ["-k", "1", "--random", "1"],
    "verify": ["--quick"],
    "publish": ["OUT/published", "--maps", "exemplars"],
    "sql": [f"SELECT activation_map('{LAYER}', {UNIT}, image_id) FROM images LIMIT 3"],
    "top": ["--class", "coin", "-k", "2", "-o", "OUT/top.png"],
    "neighbours": ["0", "--neuron", str(NEURON), "-k", "2", "-o", "OUT/near.png"],
    "heatmap": ["--class", "coin", "-k", "1", "--images", "1", "-o", "OUT/map.png"],
    "faithfulness": ["--class", "coin", "-k", "1", "--images", "1", "--steps", "2", "--view", "map"],
    "dissect blocks": [],
    "dissect activations": ["coin"],
    "dissect regions": ["coin"],
    "dissect focus": ["--random", "2"],
    "dissect context": ["-k", "2"],
    "dissect concepts": ["--layer", LAYER],
    "dissect shared": [],
    "dissect carriers": [],
    "dissect similarity": [],
    "dissect selectivity": [],
    "dissect agreement": [],
    "dissect composition": [],
    "dissect logits": ["coin", "-k", "2"],
    "dissect pairs": ["coin", "--candidates", "3"],
    "dissect sets": ["coin", "--candidates", "3"],
    "dissect composed": ["--candidates", "3"],
    "dissect fires": ["0"],
    "ablate": ["--class", "coin", "-k", "1", "--images", "1", "--random", "1"],
    "rankings": ["--class", "coin", "-k", "1", "--images", "1", "--random", "1"],
    "generate": ["--class", "coin", "-k", "1", "--snapshot", "1", "-o", "OUT/made.png"],
    "export tables": ["OUT/tables"],
    "export milan": ["OUT/milan", "--layer", LAYER, "--units", "3", "-k", "2", "--size", "32"],
    "export clip-dissect": ["OUT/clip", "--layer", LAYER],
    "export milan-sheet": [str(NEURON), "-k", "2", "-o", "OUT/sheet.png"],
    "export embedding-atlas": ["OUT/neurons.parquet"],
    "import descriptions": ["OUT/said.csv", "--source", "me"],
    "atlas export": ["OUT/atlas", "--layer", LAYER, "--top", "1"],
}
SERVING = {"atlas serve"}  # until it is stopped: what it serves is what 'atlas export' writes


def removed(index: Index) -> Any:
    return query.compare_rankings(index, (1,), ["coin"], images=1, random=1)


def made(index: Index) -> Any:
    return query.generate_images(index, Target((NEURON,)), k=1, snapshots=[1])


@contextmanager
def without_effects(index: Index) -> Iterator[None]:
    """Its extension is elsewhere meanwhile, for another to be made; that one goes at the end."""
    place = index.layout.root / "extensions"
    shutil.move(place, place.with_name("aside"))
    try:
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(place.with_name("aside"), place)


def measured(index: Index) -> None:
    with without_effects(index), query.StoredIndex(index.layout.root, extensions=False) as plain:
        query.measure_effects(plain, limit=1)


def csv(out: Path) -> Path:
    (out / "said.csv").write_text(f"layer,unit,description\n{LAYER},{UNIT},coins\n")
    return out / "said.csv"


def command_names(group: click.Group, above: str = "") -> set[str]:
    names: set[str] = set()
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        names |= command_names(command, f"{name} ") if isinstance(command, click.Group) else {f"{above}{name}"}
    return names


def test_every_door_has_a_way_to_be_asked() -> None:
    assert set(FUNCTIONS) | RECORDS == set(query.__all__)
    public = {name for name, member in inspect.getmembers(Index, callable) if not name.startswith("_")}
    assert set(METHODS) == public
    assert set(COMMANDS) | {"index", "cache"} | SERVING == command_names(cli)


def head(out: Path) -> None:
    save_file({"weight": np.ones((2, 192), np.float32)}, out / "head.safetensors")


def by_command(name: str) -> Ask:
    def ask(index: Index, out: Path) -> Any:
        csv(out)
        head(out)
        words = [word.replace("OUT", str(out)) for word in COMMANDS[name]]
        with without_effects(index) if name == "effects" else nullcontext():
            result = CliRunner().invoke(cli, [*name.split(), str(index.layout.root), *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output

    return ask


DOORS = {
    **{f"query.{name}": ask for name, ask in FUNCTIONS.items()},
    **{f"Index.{name}": ask for name, ask in METHODS.items()},
    **{f"vitdex {name}": by_command(name) for name in COMMANDS},
}


@pytest.fixture(scope="module")
def whole(effects_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with effects, whose own files are test_effects_faults.py's."""
    return Path(shutil.copytree(effects_path, tmp_path_factory.mktemp("whole") / "whole.vitdex"))


@pytest.fixture(scope="module")
def flipped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index with bytes flipped all over every array file: in every chunk, whatever is read of it."""
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("flipped") / "flipped.vitdex"))
    for file in out.glob("activations.zarr/**/c/**/*"):
        if file.is_file():
            content = bytearray(file.read_bytes())
            for at in range(0, len(content), 97):
                content[at] ^= 0x55
            file.write_bytes(content)
    return out


@pytest.mark.parametrize("door", DOORS)
def test_a_flipped_byte_of_an_array(
    door: str, whole: Path, flipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    original = LocalStore.read

    def counted(self: LocalStore, key: str, start: int, length: int) -> Any:
        nonlocal read
        read += 1
        return original(self, key, start, length)

    monkeypatch.setattr(LocalStore, "read", counted)
    with Index(whole) as index:
        DOORS[door](index, tmp_path)
    (tmp_path / "again").mkdir()
    with Index(flipped) as index:
        if not read and door != "vitdex sql":  # whose child reads in a process of its own
            DOORS[door](index, tmp_path / "again")
            return
        with pytest.raises(DamagedIndex) as caught:
            DOORS[door](index, tmp_path / "again")
    assert caught.value.remedy == REPAIR
    assert str(flipped) in str(caught.value) or LAYER in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_a_flipped_byte_of_the_tables(door: str, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "flipped.vitdex", copy_function=_link_large))
    database = out / "index.duckdb"
    content = bytearray(database.read_bytes())
    for at in range(4096 * 3, len(content), 1024):  # behind the file's three headers: every block
        content[at] ^= 0x55
    database.unlink()
    database.write_bytes(content)
    if door.split(" ")[-1].split(".")[-1] in ASKING_NO_TABLE:
        with Index(out) as index:
            DOORS[door](index, tmp_path)
        return
    with Index(out) as index, pytest.raises(DamagedIndex) as caught:
        DOORS[door](index, tmp_path)
    assert caught.value.remedy == REPAIR
    assert "index.duckdb" in str(caught.value)


def _link_large(source: str, target: str) -> None:
    """Array files as links: a copy that costs nothing."""
    Path(target).hardlink_to(source)
