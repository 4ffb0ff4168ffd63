"""The packaged sample: images, masks and the model trained on such images."""

from importlib.resources import files
from pathlib import Path

SAMPLE = Path(str(files("vitdex.data").joinpath("sample")))
IMAGES, MASKS, MODEL = SAMPLE / "images", SAMPLE / "masks", SAMPLE / "model"
MODEL_NAME = f"local-dir:{MODEL}"  # as timm spells a model in a folder
