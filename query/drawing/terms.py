"""Terms that tables and figures use, and where the documentation defines each, once."""

from __future__ import annotations

from collections.abc import Iterable

RANKINGS = "docs/concepts/rankings.md"
REGION = "docs/concepts/measures.md#object-and-region"
CONTEXT = "docs/concepts/measures.md#context"
CLASSES = "docs/concepts/measures.md#classes-and-neurons"
VALUES = "docs/concepts/measures.md#keys-against-values"
LOGITS = "docs/concepts/measures.md#how-a-logit-builds-up"
SUMS = "docs/concepts/measures.md#sums-of-value-vectors"
VIEWS = "docs/concepts/views.md"
FAITHFULNESS = "docs/concepts/views.md#insertion-and-deletion"
REGIONS = "docs/concepts/activations.md#regions"
EFFECTS = "docs/concepts/effects.md"
GENERATED = "docs/concepts/generated-images.md#what-is-said-of-a-result"

DEFINED = {
    **dict.fromkeys(("contribution", "folded", "score", "probability", "cosine"), RANKINGS),
    **dict.fromkeys(("energy", "mask_share", "pointing", "iou", "exceeds", "label", "passes"), REGION),
    **dict.fromkeys(("background", "contribution_outside", "lives_from_background"), CONTEXT),
    **dict.fromkeys(
        (
            "of_first",
            "activations",
            "own",
            "effective",
            "carried",
            "similarity",
            "value space",
            "tree",
            "r",
            "activation",
            "activation of a token",
            "auroc",
            "positive_share",
        ),
        CLASSES,
    ),
    **dict.fromkeys(("key-value agreement", "class-value agreement", "compositional share", "identifiability"), VALUES),
    **dict.fromkeys(("margin", "gain", "over_twice", "composed", "by chance"), SUMS),
    **dict.fromkeys(("logits",), LOGITS),
    **dict.fromkeys(
        (
            "ablation",
            "replacement",
            "logit of a class",
            "others_logit",
            "specific",
            "random neurons",
            "effect",
            "indirect",
            "share on the object",
        ),
        EFFECTS,
    ),
    **dict.fromkeys(("region",), REGIONS),
    **dict.fromkeys(("insertion", "deletion", "baseline", "random orders", "centre"), FAITHFULNESS),
    **dict.fromkeys(("ratio", "percentile", "pre_mean"), GENERATED),
}


def view_definition(view: str) -> str:
    """A line that says where a view is defined: `contribution` and `effect` are names of rankings, too."""
    return f"Definitions: view {view}: {VIEWS}"


def definitions(terms: Iterable[str]) -> str:
    """A line that says where terms are defined, page by page."""
    pages: dict[str, list[str]] = {}
    for term in dict.fromkeys(terms):
        pages.setdefault(DEFINED[term], []).append(term)
    return "Definitions: " + "; ".join(f"{', '.join(of)}: {page}" for page, of in pages.items())
