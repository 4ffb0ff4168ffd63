"""Questions to a finished index: the whole public list. Light: what a name needs is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schemas.integrity import verify
    from .atlas.embedding import export_embedding_atlas
    from .causal.ablation import ablate
    from .causal.effects_run import measure_effects
    from .causal.rankings import compare_rankings, ranking_means, ranking_pairs
    from .causal.subject import subject_effects
    from .dissect.agreement import class_value_agreement, key_value_agreement
    from .dissect.carriers import carried_classes, carrier_neurons
    from .dissect.classes import activations_of_class, carried_by_first, class_blocks
    from .dissect.composition import composition
    from .dissect.concepts import concept_overlaps, neuron_concepts
    from .dissect.context import class_context
    from .dissect.firing import firing_neurons
    from .dissect.focus import class_focus
    from .dissect.logits import logit_terms
    from .dissect.masks import Masks, open_masks
    from .dissect.regions import class_regions, region_unions, regions_figure
    from .dissect.selectivity import selectivity, selectivity_by_block
    from .dissect.sharing import own_neurons, shared_neurons
    from .dissect.similarity import agreement_of_spaces, class_similarity, class_trees
    from .dissect.value_sums import composed_classes, neuron_pairs, neuron_sets
    from .drawing.heatmap_sheet import Heatmaps
    from .export.clip_dissect import export_clip_dissect
    from .export.descriptions import import_descriptions
    from .export.milan import export_milan
    from .export.milan_sheet import milan_sheet
    from .export.publish import publish
    from .export.tables import export_tables
    from .generate.picture import generated_figure
    from .generate.run import generate_images
    from .generate.target import Target
    from .heatmaps.faithfulness import InsertionDeletion, insertion_deletion
    from .heatmaps.heatmap import class_heatmaps, neuron_heatmaps
    from .heatmaps.neuron_card import NeuronCard, neuron
    from .index import Index
    from .lookups.class_images import class_images, labelled_images
    from .lookups.image_search import neighbours, top_images
    from .lookups.key_neurons import default_ranking, first_neurons, key_neurons
    from .lookups.neuron import classes_of, quantiles
    from .model.live_model import LiveModel, open_model
    from .model.map_source import MapSource
    from .stored.names import Neuron
    from .stored.stored_index import StoredIndex

_WHERE = {
    "..schemas.integrity": ("verify",),
    ".index": ("Index",),
    ".stored.names": ("Neuron",),
    ".stored.stored_index": ("StoredIndex",),
    ".lookups.key_neurons": (
        "key_neurons",
        "first_neurons",
        "default_ranking",
    ),
    ".lookups.class_images": (
        "class_images",
        "labelled_images",
    ),
    ".lookups.neuron": (
        "classes_of",
        "quantiles",
    ),
    ".lookups.image_search": (
        "top_images",
        "neighbours",
    ),
    ".heatmaps.faithfulness": (
        "InsertionDeletion",
        "insertion_deletion",
    ),
    ".heatmaps.heatmap": (
        "neuron_heatmaps",
        "class_heatmaps",
    ),
    ".drawing.heatmap_sheet": ("Heatmaps",),
    ".heatmaps.neuron_card": (
        "NeuronCard",
        "neuron",
    ),
    ".model.live_model": (
        "LiveModel",
        "open_model",
    ),
    ".model.map_source": ("MapSource",),
    ".causal.ablation": ("ablate",),
    ".causal.rankings": (
        "compare_rankings",
        "ranking_means",
        "ranking_pairs",
    ),
    ".dissect.carriers": (
        "carrier_neurons",
        "carried_classes",
    ),
    ".dissect.classes": (
        "class_blocks",
        "carried_by_first",
        "activations_of_class",
    ),
    ".dissect.sharing": (
        "shared_neurons",
        "own_neurons",
    ),
    ".dissect.similarity": (
        "class_similarity",
        "class_trees",
        "agreement_of_spaces",
    ),
    ".dissect.selectivity": (
        "selectivity",
        "selectivity_by_block",
    ),
    ".dissect.agreement": (
        "class_value_agreement",
        "key_value_agreement",
    ),
    ".dissect.composition": ("composition",),
    ".dissect.value_sums": (
        "neuron_pairs",
        "neuron_sets",
        "composed_classes",
    ),
    ".dissect.firing": ("firing_neurons",),
    ".dissect.logits": ("logit_terms",),
    ".dissect.masks": (
        "Masks",
        "open_masks",
    ),
    ".dissect.context": ("class_context",),
    ".dissect.regions": (
        "class_regions",
        "region_unions",
        "regions_figure",
    ),
    ".dissect.focus": ("class_focus",),
    ".dissect.concepts": (
        "neuron_concepts",
        "concept_overlaps",
    ),
    ".causal.effects_run": ("measure_effects",),
    ".causal.subject": ("subject_effects",),
    ".generate.target": ("Target",),
    ".generate.run": ("generate_images",),
    ".generate.picture": ("generated_figure",),
    ".atlas.embedding": ("export_embedding_atlas",),
    ".export.tables": ("export_tables",),
    ".export.publish": ("publish",),
    ".export.milan": ("export_milan",),
    ".export.milan_sheet": ("milan_sheet",),
    ".export.clip_dissect": ("export_clip_dissect",),
    ".export.descriptions": ("import_descriptions",),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Heatmaps",
    "Index",
    "InsertionDeletion",
    "LiveModel",
    "MapSource",
    "Masks",
    "Neuron",
    "NeuronCard",
    "StoredIndex",
    "Target",
    "ablate",
    "activations_of_class",
    "agreement_of_spaces",
    "carried_by_first",
    "carried_classes",
    "carrier_neurons",
    "class_blocks",
    "class_context",
    "class_focus",
    "class_heatmaps",
    "class_images",
    "class_regions",
    "class_similarity",
    "class_trees",
    "class_value_agreement",
    "classes_of",
    "compare_rankings",
    "composed_classes",
    "composition",
    "concept_overlaps",
    "default_ranking",
    "export_clip_dissect",
    "export_embedding_atlas",
    "export_milan",
    "export_tables",
    "firing_neurons",
    "first_neurons",
    "generate_images",
    "generated_figure",
    "import_descriptions",
    "insertion_deletion",
    "key_neurons",
    "key_value_agreement",
    "labelled_images",
    "logit_terms",
    "measure_effects",
    "milan_sheet",
    "neighbours",
    "neuron",
    "neuron_concepts",
    "neuron_heatmaps",
    "neuron_pairs",
    "neuron_sets",
    "open_masks",
    "open_model",
    "own_neurons",
    "publish",
    "quantiles",
    "ranking_means",
    "ranking_pairs",
    "region_unions",
    "regions_figure",
    "selectivity",
    "selectivity_by_block",
    "shared_neurons",
    "subject_effects",
    "top_images",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
