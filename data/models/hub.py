"""A model's folder from the Hugging Face hub, by ORG/NAME: its config and its safetensors, nothing that can run code.

    folder = hub_folder("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")

The files lie in the hub client's cache, where timm finds them as well. Imports torch by way of checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ...schemas.errors import ModelError
from .checkpoints import CONVERT, INDEX, PREFERRED, shard_names
from .configs import CONFIG_FILE, FORMATS, PROCESSOR_FILE
from .create import ask_the_hub_once

HUB = "hf-hub:"  # before ORG/NAME, or ORG/NAME@REVISION
PREFIXES = (HUB, "hf_hub:")  # the second is timm's older spelling


def hub_name(name: str) -> str | None:
    """ORG/NAME of a model that is named so, else None."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), None)


def hub_folder(model: str, weights: bool = True, download: bool = True) -> Path:
    """The folder in the cache that holds a model's config and, if wanted, its weights; `download`: brought there first.

    Raises ModelError in one line: no such model, no network, no config.json or no safetensors.
    """
    if download:
        ask_the_hub_once()
    repo, _, revision = model.partition("@")

    def get(file: str) -> Path:
        return Path(hf_hub_download(repo, file, revision=revision or None, local_files_only=not download))

    def get_first(*files: str) -> Path | None:
        for file in files:
            try:
                return get(file)
            except EntryNotFoundError:  # also where the hub does not answer and the cache has no such file
                continue
        return None

    try:
        config = get(CONFIG_FILE)
        get_first(PROCESSOR_FILE)
        stored = get_first(*PREFERRED) if weights else config
        if stored is not None and stored.name.endswith(INDEX):
            for shard in shard_names(stored):
                get(shard)
    except ModelError:
        raise
    except LocalEntryNotFoundError as error:
        if not download:
            fact = f"the index names '{model}' on the hub, which is not in this machine's cache"
            raise ModelError(fact, f"If you trust it: hf download {repo}. Or give --weights FILE.") from error
        remedy = f"Check the network, or give --model local-dir:FOLDER with its {CONFIG_FILE}."
        raise ModelError(f"the hub does not answer, and '{model}' is not in its cache", remedy) from error
    except EntryNotFoundError as error:
        raise ModelError(f"'{model}' on the hub has no {CONFIG_FILE}, or lacks a shard", FORMATS) from error
    except Exception as error:  # the client's: no such repository or revision, no access, no valid name
        remedy = "Check ORG/NAME, and HF_TOKEN if it is private."
        raise ModelError(f"no '{model}' on the Hugging Face hub: {type(error).__name__}", remedy) from error
    if stored is None:
        raise ModelError(f"the hub or its cache has no safetensors of '{model}'", CONVERT)
    return config.parent
