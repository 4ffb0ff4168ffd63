"""Make again what is damaged in an index, and nothing else. The manifest is written last.

A repaired file of a part has the checksum that the manifest lists, or the repair is refused: so a repair that was
stopped has only to be repeated. Tables need the statistics of all patches: they are kept in the index, stand in the
tables as well, and only where both are damaged do all images run through the model again.

At an address files are compared where they lie. What is made again goes up whole, tables and arrays of all images from
a folder of this machine: of the index itself only the manifest, and tables that are asked for statistics, come down.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import duckdb

from ..schemas.array_specs import ARRAYS, ATTENTION_ARRAYS, MLP_ARRAYS, arrays, part_files
from ..schemas.database import tables_record
from ..schemas.errors import BadIndex, DamagedIndex
from ..schemas.facts import FileFacts, Files, content_facts
from ..schemas.integrity import listed_files
from ..schemas.layout import Layout
from ..schemas.manifest import Manifest, salvage_files, seal_manifest
from ..schemas.run_spec import Part, RunSpec
from ..schemas.storage.atomic_files import write_file
from ..schemas.storage.zarr_group import write_metadata
from ..schemas.workers.leases import beating, must_be_alone, worker_name
from .build import Listener, describe, taken_up
from .ledger import Ledger, PartEntry, Tally
from .plan import Plan, Request, make_plan
from .run.part_runner import Filled, Recorder, fresh_statistics, run_parts
from .run.part_writer import PartBuffer
from .statistics.threshold_counts import Statistics
from .tables.build_tables import build_tables, kept_in_tables, load_kept, save_kept
from .tables.class_space import ModelSpace
from .tables.filled_index import Columns, Finish
from .tables.whole_arrays import write_by_neuron, write_exemplar_maps, write_weights
from .workers.site import IndexSite, site_at


def repair(request: Request, listener: Listener) -> list[str]:
    """Make every damaged or missing file of an index again. Returns their paths.

    Raises BadIndex where there is none, where it was made with other settings (naming them), where a part comes out
    otherwise than it was, and where another worker is at it.
    """
    with site_at(request.out) as site:
        layout, files = site.layout, site.files
        if not files.names(layout.key(layout.parts)):
            site.read_manifest()  # says what is in its place
            raise BadIndex(f"{site.name} has no ledger of its parts", "Index again with --overwrite.")
        plan = make_plan(request)
        layout.parts.mkdir(parents=True, exist_ok=True)  # for the lock
        with site.only_writer():
            must_be_alone(Ledger(layout, files))
            with beating(Ledger(layout, files, worker_name())):  # a bucket has no lock
                made = _Repair(plan, site, listener).run()
            site.clean_up()
    return made


class _Repair:
    """One repair. `facts` grows from the files that are as they were to all files of the index."""

    def __init__(self, plan: Plan, site: IndexSite, listener: Listener) -> None:
        self.site, self.layout, self.listener = site, site.layout, listener
        self.ledger = Ledger(site.layout, site.files)
        self.manifest, self.spec = _same_run(plan.spec, site)
        self.plan = replace(plan, spec=self.spec)
        self.listed = listed_files(self.manifest) if self.manifest else _salvaged(self.ledger, self.spec)
        every = _every_file(self.spec, site.layout)
        total = sum(size for size, _ in self.listed.values())
        faulty = site.faulty(self.listed, listener.checking(total))
        self.facts: Files = {p: f for p, f in self.listed.items() if p in every and p not in faulty}
        self.damaged = every - set(self.facts)

    def run(self) -> list[str]:
        if self.damaged or not self.manifest:
            self._redo()
        return sorted(self.damaged)

    def _redo(self) -> None:
        if self.manifest and "source_index" in self.manifest:
            name = self.manifest["source_index"]["name"]
            raise BadIndex(
                f"{self.site.name} was made by 'vitdex head' and shares its arrays with {name!r}",
                f"Repair {name!r}, then repeat that command with --overwrite.",
            )
        spec, layout = self.spec, self.layout
        parts = [part for part in spec.parts if self.damaged & set(self._files_of(part))]
        kept = self._kept_statistics()
        again = kept is None or bool(self._damaged_arrays("exemplar_map"))
        images = sum(p.images for p in parts) + (spec.images if again else 0)
        self.listener.repairing(self.plan, sorted(self.damaged), images)
        run_parts(self.plan, parts, None, self.listener.advance, Recorder(self._write_part))
        statistics = self._gather() if again else kept
        self.listener.finishing()
        if self.layout.key(layout.run) in self.damaged:
            self.facts[self.layout.key(layout.run)] = self.ledger.write_run(spec)
        self.plan.anatomy.model.cpu()
        self._write_whole(statistics if kept is None else kept)
        entries = self.ledger.entries(len(spec.parts))
        content = self.manifest or describe(self.plan, entries, {})
        if layout.database.name in self.damaged:
            content["tables"] = tables_record()
        sealed = seal_manifest({**content, "files": dict(sorted(self.facts.items()))})
        self.site.files.vouch(layout.manifest.name, sealed)

    def _write_part(self, part: Part, buffer: PartBuffer, filled: Filled) -> None:
        """Write a part's damaged files, once all are known to be as they were."""
        content = buffer.files(part.index)
        facts = {path: content_facts(made) for path, made in content.items()}
        for path, now in facts.items():
            if self.listed.get(path, now) != now:
                raise BadIndex(
                    f"part {part.index} comes out otherwise than it was ({path}): other images, machine or threads",
                    "Repair where the index was made, or index again with --overwrite.",
                )
        for path in self.damaged & set(facts):
            self.site.files.write(path, content[path])
        self.facts |= facts
        entry = self.layout.key(self.layout.entry(part.index))
        if entry in self.damaged:
            made = PartEntry(part.index, facts, filled.images, filled.seconds)
            self.facts[entry] = self.ledger.finish_part(made)

    def _kept_statistics(self) -> dict[str, Columns] | None:
        """From their file, else from the tables; None where both are damaged."""
        statistics = self.layout.key(self.layout.statistics)
        if statistics in self.facts:
            return load_kept(self.site.files.content(statistics) or b"")
        if self.layout.database.name in self.facts:
            self.site.bring(self.layout.database)
            with contextlib.suppress(duckdb.Error):
                return kept_in_tables(self.layout, self.spec)
        return None

    def _gather(self) -> Statistics:
        """Run all images again for their statistics and the maps of the top exemplars, after the newest counts."""
        ledger = self.ledger
        try:
            statistics, parts = taken_up(self.plan, ledger)
        except BadIndex:  # damaged in their turn
            statistics, ledger.tally, parts = fresh_statistics(self.spec), Tally(ledger.worker), list(self.spec.parts)
        counted = set(ledger.tally.parts)

        def write(part: Part, buffer: PartBuffer, filled: Filled) -> None:
            ledger.save_statistics(part.index, filled)
            counted.add(part.index)
            if filled.state is not None:
                ledger.save_counts(counted, filled.state)

        run_parts(self.plan, parts, statistics, self.listener.advance, Recorder(write, ledger.settle_bins))
        ledger.merge_all(statistics, [], len(self.spec.parts))
        return statistics

    def _write_whole(self, statistics: Statistics | dict[str, Columns] | None) -> None:
        """Weights, metadata, arrays and tables of all images: those that are damaged."""
        assert statistics is not None
        spec, layout = self.spec, self.layout
        roots = {p for p in self.damaged if p.startswith(f"{ARRAYS}/")}
        if any(p.endswith("/zarr.json") for p in roots):
            self._adopt(write_metadata(layout.root, ARRAYS, arrays(spec)))
        if any(self._damaged_arrays(leaf) for leaf in ("head", *MLP_ARRAYS, *ATTENTION_ARRAYS)):
            self._adopt(write_weights(self.plan, layout))
        images = [image for entry in self.ledger.entries(len(spec.parts)) for image in entry.images]
        plan = self.plan
        space, store = ModelSpace(plan.anatomy), self.site.store(self.facts)
        finish = Finish(layout, spec, space, plan.head, plan.names, plan.label_rows, statistics, images, store=store)
        for layer in spec.layers:
            if f"{layer.name}/max_by_neuron" in self._damaged_arrays("max_by_neuron"):
                self._adopt(write_by_neuron(finish, layer))
            if f"{layer.name}/exemplar_map" in self._damaged_arrays("exemplar_map"):
                kept = self.ledger.candidates(layer.name, len(spec.parts))
                self._adopt(write_exemplar_maps(finish, layer, kept))
        if layout.database.name in self.damaged:
            self._adopt(build_tables(finish))
        elif self.layout.key(layout.statistics) in self.damaged:
            content = save_kept(kept_in_tables(layout, spec), finish)
            self._adopt({layout.key(layout.statistics): write_file(layout.statistics, content)})

    def _adopt(self, made: Files) -> None:
        """Have files that were made in the layout."""
        for path in made:
            self.site.files.adopt(path, self.layout.root / path)
        self.facts |= made

    def _damaged_arrays(self, leaf: str) -> set[str]:
        """Arrays of this name that have a damaged file."""
        names = {p.removeprefix(f"{ARRAYS}/").split("/c/")[0] for p in self.damaged if "/c/" in p}
        return {name for name in names if name.split("/")[-1] == leaf}

    def _files_of(self, part: Part) -> list[str]:
        return [*part_files(self.spec, part.index), self.layout.key(self.layout.entry(part.index))]


def _same_run(spec: RunSpec, site: IndexSite) -> tuple[Manifest | None, RunSpec]:
    """The manifest, or None where it is damaged or missing, and the run that made the index.

    Libraries may be newer by now: a part that comes out otherwise is refused all the same. Raises BadIndex where the
    index is of another run.
    """
    layout, manifest = site.layout, None
    try:
        manifest = site.read_manifest()
        there = RunSpec.from_json(manifest["run"])
    except BadIndex as error:
        if layout.manifest.exists() and not isinstance(error, DamagedIndex):
            raise
        try:
            there = RunSpec.from_json(json.loads(layout.run.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError) as reason:
            raise BadIndex(f"{site.name}: neither manifest nor run.json tell the run", "Index again.") from reason
    forward = there.forward if there.forward == "plain" else spec.forward  # the plain one every machine has
    if different := replace(spec, versions=there.versions, forward=forward).differences(there):
        raise BadIndex(
            f"{site.name} was made by another run ({'; '.join(different)})",
            "Repeat that run's command with --repair.",
        )
    if manifest and layout.manifest.read_bytes() != seal_manifest(manifest):
        manifest = None
    return manifest, there


def _salvaged(ledger: Ledger, spec: RunSpec) -> Files:
    """What a damaged manifest and the ledger say of the files: the ledger's word goes first."""
    layout = ledger.layout

    def of_entry(part: Part) -> Files:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            entry = json.loads(ledger.files.content(layout.key(layout.entry(part.index))) or b"")
            return {path: FileFacts(*entry["files"][path]) for path in part_files(spec, part.index)}
        return {}

    files = salvage_files(layout.manifest.read_bytes()) if layout.manifest.exists() else {}
    with ThreadPoolExecutor(ledger.files.at_once) as readers:
        for found in readers.map(of_entry, spec.parts):
            files |= found
    return files


def _every_file(spec: RunSpec, layout: Layout) -> set[str]:
    """All files of such an index but its manifest."""
    paths: set[str] = set()
    for array in arrays(spec).values():
        paths |= set(array.file_names)
        names = array.path.split("/")
        paths |= {"/".join([ARRAYS, *names[:depth], "zarr.json"]) for depth in range(len(names) + 1)}
    others = (layout.run, layout.statistics, layout.database, *(layout.entry(p.index) for p in spec.parts))
    return paths | set(map(layout.key, others))
