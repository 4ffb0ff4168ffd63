"""Every family of ViT that vitdex reads, small and with random weights, against plain hooks and the state dict.

Nothing of vitdex computes an expected value here: a family's pooling, gains and norms are written out by hand, and the
noise on every norm, gamma and token makes that each of them matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from shaken import shaken
from timm.data import create_transform
from timm.layers import GluMlp
from torch import Tensor, nn
from vitdex.data.models.load import load_model
from vitdex.data.models.probe import dissect
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request, make_plan
from vitdex.query.dissect.logits import logit_terms
from vitdex.query.heatmaps.heatmap import neuron_heatmaps
from vitdex.query.index import Index
from vitdex.query.model.gradients import gradient_times_activation
from vitdex.query.model.live_model import open_model
from vitdex.schemas.errors import ModelError, QueryError
from vitdex.schemas.run_spec import Linear

CLASSES = ["zebra", "Red Fox", "owl", "ant", "bee"]  # in an order that is not the folders'
FOLDERS = {"ant": 3, "bee": 2, "red_fox": 4, "owl": 2, "stranger": 1}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}


@dataclass(frozen=True)
class Family:
    """A timm name made small, and how its head reads: which norm ("": none), before or behind which pooling."""

    name: str
    readout: str
    norm: str = "norm"
    size: tuple[int, int] = (32, 32)
    args: dict[str, Any] = field(default_factory=dict)
    classes: int = len(CLASSES)
    prefix: int = 1
    cls: bool = True
    gain: str = ""  # where a block keeps its LayerScale
    post_norm: bool = False
    centred: bool = True
    layers: tuple[Linear, ...] = ("fc1", "attn")
    gated: bool = False

    @property
    def model_args(self) -> dict[str, Any]:
        return {**SMALL, "img_size": list(self.size), **self.args}


FAMILIES = {
    "plain": Family("vit_tiny_patch16_224", "token", layers=("fc1", "fc2", "attn")),
    "patch 8, not square": Family("vit_small_patch8_224", "token", size=(32, 64)),
    "registers, no head": Family(
        "vit_small_patch14_reg4_dinov2", "token", size=(56, 56), classes=0, prefix=5, gain="ls2.gamma"
    ),
    "registers, head": Family("vit_small_patch14_reg4_dinov2", "token", size=(42, 42), prefix=5, gain="ls2.gamma"),
    "distilled": Family("deit_tiny_distilled_patch16_224", "token", prefix=2),
    "LayerScale": Family("deit3_small_patch16_224", "token", gain="ls2.gamma"),
    "mean, then norm": Family("beit_base_patch16_224", "mean", "fc_norm", gain="gamma_2"),
    "norm, then mean": Family("vit_medium_patch16_gap_240", "mean of normed", prefix=0, cls=False, gain="ls2.gamma"),
    "mean, then norm, registers": Family(
        "vit_medium_patch16_reg4_gap_256", "mean", "fc_norm", prefix=4, cls=False, gain="ls2.gamma"
    ),
    "norm, then mean, registers": Family(
        "vit_medium_patch16_reg4_gap_256",
        "mean of normed",
        args={"fc_norm": False},
        prefix=4,
        cls=False,
        gain="ls2.gamma",
    ),
    "mean without a norm": Family("vit_pe_spatial_tiny_patch16_512", "mean", ""),
    "mean without a norm, two kinds of tokens": Family(
        "vit_medium_patch16_reg4_gap_256",
        "mean",
        "",
        args={"fc_norm": False, "final_norm": False, "class_token": True},
        prefix=5,
        gain="ls2.gamma",
    ),
    "token without a norm": Family("vit_tiny_patch16_224", "token", "", args={"final_norm": False}),
    "post-norm": Family("vit_base_patch16_rpn_224", "mean", "fc_norm", prefix=0, cls=False, post_norm=True),
    "post-norm, CLS": Family(
        "vit_base_patch16_rpn_224", "token", args={"class_token": True, "global_pool": "token"}, post_norm=True
    ),
    "post-norm, norm then mean": Family(
        "vit_base_patch16_rpn_224", "mean of normed", args={"fc_norm": False}, prefix=0, cls=False, post_norm=True
    ),
    "relative positions": Family(
        "vit_relpos_base_patch32_plus_rpn_256", "mean of normed", size=(64, 64), prefix=0, cls=False, post_norm=True
    ),
    "RMSNorm": Family("vit_tiny_patch16_224", "token", args={"norm_layer": "rmsnorm"}, centred=False),
    "EVA": Family("eva_large_patch14_196", "mean", "fc_norm", (42, 42)),
    "EVA, mixed rope": Family("vit_small_patch16_rope_mixed_224", "token", gain="gamma_2"),
    "parallel": Family("vit_small_patch16_18x2_224", "token", gain="ls.gamma", args={"init_values": 0.1}),
    "SwiGLU in one layer, DINOv2-g": Family(
        "vit_giant_patch14_dinov2", "token", size=(42, 42), gain="ls2.gamma", layers=("fc1", "fc2", "attn"), gated=True
    ),
    "SwiGLU in one layer, EVA-02": Family("eva02_tiny_patch14_224", "mean", "fc_norm", (42, 42), gated=True),
    "SwiGLU in two layers, normed, EVA-02": Family("eva02_base_patch14_224", "mean", "fc_norm", (42, 42), gated=True),
    "SwiGLU in two layers, DINOv3": Family(
        "vit_huge_plus_patch16_dinov3",
        "mean of normed",
        prefix=5,
        gain="gamma_2",
        layers=("fc1", "fc2", "attn"),
        gated=True,
    ),
    "attention pooling": Family(
        "vit_base_patch16_siglip_224", "none: the head reads through attention pooling", prefix=0, cls=False
    ),
}


def save_folder(folder: Path, family: Family, model: nn.Module) -> str:
    """The model in timm's hub format."""
    folder.mkdir()
    config = {
        "architecture": family.name,
        "num_classes": family.classes,
        "model_args": family.model_args,
        "pretrained_cfg": {
            "input_size": [3, *family.size], "mean": MEAN, "std": STD, "crop_pct": 0.9, "interpolation": "bicubic",
            "label_names": CLASSES[: family.classes],
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth noise of several sizes, so that resizing and cropping take part."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for folder, count in FOLDERS.items():
        (root / folder).mkdir()
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            coarse.resize((50 + 9 * i, 70), Image.Resampling.BICUBIC).save(root / folder / f"{i}.png")
    return root


@dataclass
class Case:
    """An index, and what plain hooks saw of the same model and images."""

    family: Family
    model: nn.Module
    index: Index
    paths: list[str]
    weights: Path
    seen: dict[str, Tensor]  # outputs of modules by name; 'in' before the name: their first input
    logits: Tensor

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    @cached_property
    def layers(self) -> list[str]:
        """The blocks' own MLPs: pooling and relative positions have some too, and those are no layers."""
        names = [name for name, _ in self.model.named_modules() if name.endswith(".mlp.fc2")]
        blocks = [name for name in names if name.startswith("blocks.") and ".attn." not in name]
        return [f"{name}.input" if self.family.gated else name.replace("fc2", "fc1") for name in blocks]

    @cached_property
    def attention(self) -> list[str]:
        """The blocks' own attention."""
        names = [name for name, _ in self.model.named_modules() if name.endswith(".attn.proj")]
        return [f"{name}.input" for name in names if name.startswith("blocks.")]

    def values(self, name: str) -> Tensor:
        """A layer's values [image, token, unit]: the outputs of a module, or the inputs of fc2 or attn.proj."""
        return self.seen[f"in {name.removesuffix('.input')}" if name.endswith(".input") else name]

    def patches(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.values(name)[:, self.family.prefix :].transpose(1, 2).numpy()
        return found

    def last(self, layer: str, what: str) -> Tensor:
        """Weight or bias of the last linear layer of a layer's MLP or attention."""
        return self.state[f"{layer.removesuffix('.input').replace('fc1', 'fc2')}.{what}"]

    def beside(self, layer: str, name: str) -> str:
        """The module beside a layer's MLP (gain, norm2, drop_path2), or the like of it beside attention."""
        if ".proj." not in layer:
            return layer.partition("mlp.")[0] + name
        return layer.partition("attn.proj")[0] + name.replace("2", "1")

    def through_final_norm(self, written: Tensor) -> Tensor:
        """What vectors [image, token, d] in the stream give the head, the final norm held at its own sigma."""
        family = self.family
        if not family.norm:
            return written[:, 0] if family.readout == "token" else written[:, family.prefix :].mean(1)
        at = self.seen[f"in {family.norm}"]
        centre = written - written.mean(-1, keepdim=True) if family.centred else written
        square = at.var(-1, unbiased=False) if family.centred else at.square().mean(-1)
        sigma = (square + self.model.get_submodule(family.norm).eps).sqrt()  # type: ignore[operator]
        weight = self.state[f"{family.norm}.weight"]
        if family.readout == "mean":
            return centre[:, family.prefix :].mean(1) * weight / sigma[:, None]
        normed = centre * weight / sigma[..., None]
        return normed[:, 0] if family.readout == "token" else normed[:, family.prefix :].mean(1)

    def folded(self, layer: str, vectors: Tensor) -> Tensor:
        """Vectors [n, d] of fc2 with all gains, by the definition."""
        if self.family.gain:
            vectors = vectors * self.state[self.beside(layer, self.family.gain)]
        if self.family.post_norm:
            vectors = (vectors - vectors.mean(-1, keepdim=True)) * self.state[self.beside(layer, "norm2.weight")]
        if not self.family.norm:
            return vectors
        if self.family.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors * self.state[f"{self.family.norm}.weight"]

    def written(self, layer: str) -> Tensor:
        """What the MLP or attention adds to the stream, as the hooks saw it; a post-norm's bias is no unit's."""
        parallel = ".ffns." in layer or ".attns." in layer
        out = self.seen[self.beside(layer, "drop_path" if parallel else "drop_path2")]
        return out - self.state[self.beside(layer, "norm2.bias")] if self.family.post_norm else out

    def handed(self, layer: str) -> Tensor:
        """All that the MLP or attention adds to the stream, a post-norm's bias included."""
        bias = self.state[self.beside(layer, "norm2.bias")] if self.family.post_norm else 0
        return self.written(layer) + bias

    def table(self, column: str, table: str, layer: str) -> NDArray[np.float64]:
        """A column of a class table: [unit, class]."""
        rows = self.index.sql(f"SELECT {column} AS x FROM {table} WHERE layer = ? ORDER BY unit, class_id", [layer])
        return rows.x.to_numpy(np.float64, na_value=np.nan).reshape(-1, len(CLASSES))


def watch(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if isinstance(out, Tensor) and args and isinstance(args[0], Tensor):
                seen[f"in {name}"], seen[name] = args[0].clone(), out.clone()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.inference_mode():
        logits = model(x)
    for hook in hooks:
        hook.remove()
    return seen, logits


@pytest.fixture(scope="module", params=list(FAMILIES.values()), ids=list(FAMILIES))
def case(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    family: Family = request.param
    place = tmp_path_factory.mktemp("family")
    model = shaken(timm.create_model(family.name, num_classes=family.classes, **family.model_args))
    name = save_folder(place / "model", family, model)
    ask = Request(place / "out", name, str(pictures), layers=family.layers, device="cpu", batch_size=5, workers=0)
    out = build(ask, Quiet())
    transform = create_transform((3, *family.size), mean=MEAN, std=STD, crop_pct=0.9, interpolation="bicubic")
    paths = sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png"))
    x = torch.stack([transform(Image.open(pictures / p).convert("RGB")) for p in paths])
    seen, logits = watch(model, x)
    with Index(out) as index:
        yield Case(family, model, index, paths, place / "model", seen, logits)


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def test_maps_and_summaries_are_those_of_plain_hooks(case: Case) -> None:
    family, spec = case.family, case.index.spec
    assert (spec.readout, spec.prefix, spec.cls) == (family.readout, family.prefix, family.cls)
    assert case.index.sql("SELECT path FROM images ORDER BY image_id").path.tolist() == case.paths
    kinds = {layer.name for layer in spec.layers}
    residual = {f"{name.partition('.mlp.')[0]}.mlp.fc2" for name in case.layers if "fc2" in family.layers}
    assert kinds == {*case.layers, *case.attention, *residual}
    assert {layer.name for layer in spec.layers if layer.kind == "attention"} == set(case.attention)
    assert {layer.kind for layer in spec.layers} >= {"gated" if family.gated else "hidden"}
    for name in kinds:
        truth, group = case.patches(name), case.index.arrays[name]
        high, low = truth.max(2), truth.min(2)
        close(group["max"][:], high)
        close(group["min"][:], low)
        close(group["mean"][:], truth.mean(2))
        at = np.take_along_axis(truth, group["argmax"][:].astype(int)[..., None], 2)[..., 0]
        close(at, high)  # by value: float32 may break a tie the other way
        assert ("cls" in group) == family.cls
        if family.cls:
            close(group["cls"][:], case.values(name)[:, 0])
        for image, unit in ((0, 0), (11, 23), (5, 7)):
            found = case.index.map(name, unit, image)
            assert found.shape == spec.grid
            bound = (high - low)[image, unit] / 510 + 1e-4
            assert np.abs(found.ravel() - truth[image, unit]).max() <= bound
    if family.classes:
        close(case.index.arrays["logits"][:], case.logits)


def test_gated_units_have_no_value_before_a_nonlinearity(case: Case) -> None:
    """What stands where other neurons have the value after it is the value itself."""
    if case.family.gated:
        check_units_of_both_signs(case, case.layers, "gated", "fc2")


def test_attention_units_are_of_both_signs(case: Case) -> None:
    check_units_of_both_signs(case, case.attention, "attention", "attn.proj")


def check_units_of_both_signs(case: Case, layers: list[str], kind: str, reader: str) -> None:
    index, name = case.index, layers[-1]
    close(index.arrays[name]["post_mean"][:], case.patches(name).mean(2))
    top = index.exemplars(name, 5, k=3)
    assert (top.pre == top.post).all()
    close(top.pre, -np.sort(-case.patches(name)[:, 5].max(1))[:3])
    low = index.exemplars(name, 5, k=3, side="bottom")
    lowest = case.patches(name)[:, 5].min(1)
    close(low.pre, np.sort(lowest)[:3])
    assert (low.pre == low.post).all()
    assert low.image_id.tolist() == np.argsort(lowest, kind="stable")[:3].tolist()
    close(case.patches(name)[low.image_id, 5, low.patch], low.pre)  # by value: float32 may break a tie the other way
    tokens = torch.cat([case.values(layer) for layer in layers], -1).flatten(0, 1)
    dead = index.sql(
        "SELECT dead FROM neurons JOIN layers USING (layer) WHERE kind = ? ORDER BY block, layer, unit", [kind]
    ).dead
    assert dead.tolist() == (tokens.abs() <= 1e-6).all(0).tolist()
    live = open_model(index, case.weights, "cpu")
    close(live.maps(name, [5, 7], [0, 3]).reshape(2, 2, -1), case.patches(name)[[0, 3]][:, [5, 7]], 1e-4)
    if not case.family.classes:
        return
    given = gradient_times_activation(live, name, [5], 2, 3)
    assert given.patches.shape == (1, *index.spec.grid)
    assert np.abs(given.patches).sum() + np.abs(given.prefix).sum() > 0 or case.family.readout == "token"
    picture = neuron_heatmaps(index, [f"{name}:5"], [0])
    assert "before" not in picture.title
    lens = neuron_heatmaps(index, [f"{name}:5"], [0], view="contribution", class_="owl")  # no weights: none are needed
    assert lens.title == f"Value that {reader} reads × raw score for owl"
    score = case.last(name, "weight").T[5] @ case.state["head.weight"][CLASSES.index("owl")]
    close(lens.values[0, 0].reshape(-1), case.patches(name)[0, 5] * float(score), 1e-2)
    with pytest.raises(QueryError, match=rf"holds {kind} units: no nonlinearity follows it\. Take --view map"):
        neuron_heatmaps(index, [f"{name}:5"], [0], view="post")


@pytest.mark.parametrize("gate_last", [True, False])
def test_a_glu_may_gate_with_either_half(gate_last: bool) -> None:
    mlp = partial(GluMlp, gate_last=gate_last)
    model = shaken(timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=32, mlp_layer=mlp))
    layer = dissect(model, (32, 32)).layers[1]
    assert (layer.name, layer.residual_name, layer.units) == ("blocks.1.mlp.fc2.input", "blocks.1.mlp.fc2", 48)
    seen, _ = watch(model, torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(layer.act(seen["blocks.1.mlp.norm"]), seen["in blocks.1.mlp.fc2"])


def test_class_scores_are_their_definitions_from_the_state_dict(case: Case) -> None:
    if not case.family.classes:
        assert case.index.sql("FROM class_scores").empty
        return
    E = case.state["head.weight"]
    for name in (*case.layers, *case.attention):
        value = case.last(name, "weight").T
        score = value @ E.T
        close(case.table("score", "class_scores", name), score)
        norms = value.norm(dim=1)[:, None] * E.norm(dim=1)[None]
        close(case.table("cosine", "class_scores", name), score / norms)
        close(case.table("probability", "class_scores", name), score.exp() / score.exp().sum(1, keepdim=True))
        folded = case.table("folded", "class_scores", name)
        if case.family.readout.startswith("none"):
            assert np.isnan(folded).all()
            assert np.isnan(case.table("contribution", "class_activations", name)).all()
        else:
            close(folded, case.folded(name, value) @ E.T)


def test_contributions_add_up_to_what_the_mlp_gives_the_logit(case: Case) -> None:
    family, index = case.family, case.index
    if family.readout.startswith("none"):
        return
    # the head's rows, or, without a head, the features themselves
    E = case.state["head.weight"] if family.classes else torch.eye(SMALL["embed_dim"])
    stream = case.seen[f"blocks.{SMALL['depth'] - 1}"]
    if family.classes:  # first of all, the reading by hand is the model's own: it gives whole logits
        has_bias = family.norm and family.centred
        offset = E @ case.state[f"{family.norm}.bias"] if has_bias else torch.zeros(family.classes)
        offset = offset + case.state["head.bias"]
        close(case.through_final_norm(stream) @ E.T + offset, case.seen["head"])
        close(index.sql("SELECT logit_offset AS x FROM classes ORDER BY class_id").x, offset)
    places = [("", i, layer.name) for i, layer in enumerate(index.spec.neuron_layers)]
    places += [("attention_", i, layer.name) for i, layer in enumerate(index.spec.attention_layers)]
    assert {name for *_, name in places} == {*case.layers, *case.attention}
    labels = index.sql("SELECT class_id FROM images ORDER BY image_id").class_id.to_numpy(float, na_value=-1)
    for of, i, name in places:
        vectors, biases = index.arrays[f"folded_{of}vectors"][i], index.arrays[f"folded_{of}biases"][i]
        share = case.through_final_norm(case.written(name)) @ E.T
        read, scale = index.arrays[f"{name}/read"][:], index.arrays[f"{name}/scale"][:]
        folded, bias = vectors @ E.numpy().T, biases @ E.numpy().T
        close(read @ folded + scale[:, None] * bias, share, 3e-4)
        close(biases, case.folded(name, case.last(name, "bias")[None])[0])
        if not family.classes:
            continue
        found = case.table("contribution", "class_activations", name)
        for c in range(len(CLASSES)):
            of_class = labels == c
            if of_class.any():
                close(found[:, c], (read[of_class] * folded[:, c]).mean(0))
                # the table's column alone, bias aside, is the neurons' part of the class's mean share
                rest = float((scale[of_class] * bias[c]).mean())
                close(found[:, c].sum() + rest, share[of_class, c].mean(), 3e-4)
            else:
                assert np.isnan(found[:, c]).all()


def test_the_terms_of_a_logit_are_those_of_plain_hooks_and_add_up_to_it(case: Case) -> None:
    """Each block's attention and MLP by what they hand to the stream, the start by what the first block reads."""
    family, index = case.family, case.index
    if family.readout.startswith("none") or not family.classes:
        expected = "can be taken apart: none" if family.classes else "no class scores"
        with pytest.raises(QueryError, match=expected):
            logit_terms(index, 0, 0, weights=case.weights, device="cpu")
        return
    E, logits = case.state["head.weight"].double(), case.seen["head"].double()
    shares: dict[str, Tensor] = {"embedding": case.through_final_norm(case.seen["in blocks.0"]) @ E.float().T}
    for name in (*case.layers, *case.attention):
        key = f"{name.split('.')[1]} {'attention' if name in case.attention else 'MLP'}"
        share = case.through_final_norm(case.handed(name)) @ E.float().T
        shares[key] = shares.get(key, torch.zeros_like(share)) + share  # parallel branches are one
    for image, class_id in ((0, 0), (7, 3), (11, 1)):
        table = logit_terms(index, class_id, image, weights=case.weights, device="cpu")
        size = float(logits.abs().max())
        assert abs(table.value.sum() - float(logits[image, class_id])) <= 1e-4 * size
        close(table.after, table.value.cumsum(), 1e-9)
        close(table.before, table.after - table.value, 1e-9)
        found = table.assign(of=table.part.str.split().str[0]).dropna().groupby(["block", "of"]).value.sum()
        assert len(found) == len(shares) - 1 == 2 * SMALL["depth"]
        for key, share in shares.items():
            if key != "embedding":
                block, of = key.split()
                assert abs(found[int(block), of] - float(share[image, class_id])) <= 1e-4 * size
        assert abs(table.value[0] - float(shares["embedding"][image, class_id])) <= 1e-4 * size
        bias = case.state["head.bias"][class_id]
        assert abs(table.value.iloc[-1] - float(bias)) <= 1e-5 * size
        for spec in index.spec.layers if ".ffns." not in case.layers[0] else ():
            if spec.has_value_vectors:
                of, layers = (
                    ("attention_", index.spec.attention_layers)
                    if spec.kind == "attention"
                    else ("", index.spec.neuron_layers)
                )
                folded = index.arrays[f"folded_{of}vectors"][layers.index(spec)] @ E[class_id].numpy()
                part = "attention units" if of else "MLP neurons"
                value = table.value[(table.block == spec.block) & (table.part == part)].item()
                assert abs(value - index.arrays[f"{spec.name}/read"][image] @ folded) <= 1e-4 * size


def test_folders_find_their_classes_by_name(case: Case) -> None:
    if not case.family.classes:
        return
    rows = case.index.sql("SELECT DISTINCT label, class FROM images LEFT JOIN classes USING (class_id)")
    pairs = zip(rows.label, rows["class"], strict=True)
    found = {label: name if isinstance(name, str) else None for label, name in pairs}
    assert found == {"ant": "ant", "bee": "bee", "owl": "owl", "red_fox": "Red Fox", "stranger": None}
    assert case.index.manifest["notes"] == []


@pytest.mark.parametrize(
    ("factor", "choices", "words"),
    [
        (
            1e5,
            {"precision": "float16"},
            r"values of 'blocks\.1\.mlp\.fc1' are not finite .* in float16\. Use --precision",
        ),
        (1e6, {"maps": "float16"}, r"values of 'blocks\.1\.mlp\.fc1' are beyond 65,504.*Use --maps uint8"),
    ],
)
def test_values_that_overflow_are_told_by_layer(
    factor: float, choices: dict[str, Any], words: str, pictures: Path, tmp_path: Path
) -> None:
    """One neuron of the last block, whose part in the logits is small."""
    torch.manual_seed(0)  # of other weights the class token may overflow as well
    family = FAMILIES["plain"]
    model = shaken(timm.create_model(family.name, num_classes=family.classes, **family.model_args))
    fc1, fc2 = (model.get_submodule(f"blocks.1.mlp.{part}") for part in ("fc1", "fc2"))
    with torch.no_grad():
        fc1.weight[7] *= factor
        fc2.weight[:, 7] *= 1e-9
    name = save_folder(tmp_path / "model", family, model)
    with pytest.raises(ModelError, match=words):
        build(asked(tmp_path / "out", pictures, model=name, **choices), Quiet())


class Crossed(GluMlp):  # type: ignore[misc]
    """A gate that looks like others and is not."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.fc1(x).chunk(2, -1)
        return self.fc2(self.norm(self.act(gate) * up + gate))  # type: ignore[no-any-return]


def test_a_gate_of_another_kind_is_refused_by_the_probe_run() -> None:
    model = shaken(timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=32, mlp_layer=Crossed))
    with pytest.raises(ModelError, match=r"what fc2 reads after 'blocks\.0\.mlp\.fc1' is not act\(gate\) \* up"):
        dissect(model, (32, 32))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "img_size": 56},
        "'layers.0.blocks.0.mlp.fc1'",
    ),
    "norm inside the MLP": (
        "vit_tiny_patch16_224", {**SMALL, "img_size": 32, "scale_mlp_norm": True}, "'blocks.0.mlp.fc1'.*norm"
    ),
    "norm inside the MLP, BEiT-3": ("beit3_base_patch16_224", {**SMALL, "img_size": 32}, "'blocks.0.mlp.fc1'.*norm"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "args", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_other_mlps_are_refused_in_one_line_that_names_the_layer(name: str, args: dict[str, Any], words: str) -> None:
    model = shaken(timm.create_model(name, num_classes=5, **args))
    size = args["img_size"]
    with pytest.raises(ModelError, match=words) as refusal:
        dissect(model, (size, size))
    assert "\n" not in str(refusal.value)
    assert refusal.value.remedy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole vit_tiny of 5 classes and 48 pixels as bare weights: nothing but shapes tells so."""
    file = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(shaken(timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=48)).state_dict(), file)
    return file


def asked(out: Path, images: Path, **choices: Any) -> Request:
    return Request(out, choices.pop("model", "vit_tiny_patch16_224"), str(images), device="cpu", workers=0, **choices)


def test_a_weights_file_brings_image_size_and_classes(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    """Five rows, five folders and no names: only then are folders taken in sorted order, and it is said."""
    out = build(asked(tmp_path / "out", pictures, weights=tiny), Quiet())
    with Index(out) as index:
        assert (index.spec.grid, index.spec.classes) == ((3, 3), 5)
        assert index.spec.preprocessing["input_size"] == [3, 48, 48]
        assert index.spec.class_names == "folders by sorted position"
        assert any("sorted order" in note for note in index.manifest["notes"])
        names = index.sql("SELECT class FROM classes ORDER BY class_id")["class"].tolist()
    assert names == sorted(FOLDERS)


def test_relative_positions_tell_the_image_size(tmp_path: Path) -> None:
    model = timm.create_model("beit_base_patch16_224", num_classes=5, img_size=48, depth=1)
    save_file(model.state_dict(), tmp_path / "beit.safetensors")
    loaded = load_model("beit_base_patch16_224", tmp_path / "beit.safetensors", model_args={"depth": 1})
    assert loaded.preprocessing["input_size"] == [3, 48, 48]
    assert not loaded.notes


def test_unequal_counts_leave_images_without_a_class(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for folder in ("ant", "owl"):
        (tmp_path / "few" / folder).symlink_to(pictures / folder)
    plan = make_plan(asked(tmp_path / "out", tmp_path / "few", weights=tiny))
    assert plan.names is not None
    assert (plan.names.origin, plan.names.names) == ("numbers", ("0", "1", "2", "3", "4"))
    assert "called by their numbers" in plan.notes[0]
    assert "none of the classes" in plan.warnings[0]


def save_head(file: Path, width: int, names: list[str]) -> Tensor:
    weight = torch.randn(len(names), width, generator=torch.Generator().manual_seed(5))
    save_file({"weight": weight}, file, {"classes": json.dumps(names)})
    return weight


@pytest.mark.parametrize(
    ("family", "width"),
    [
        (FAMILIES["registers, no head"], SMALL["embed_dim"]),
        (Family("vit_base_patch16_clip_224", "token", classes=12), 12),  # CLIP's head is a projection
    ],
    ids=["no head", "projection"],
)
def test_a_head_of_texts(family: Family, width: int, pictures: Path, tmp_path: Path) -> None:
    model = shaken(timm.create_model(family.name, num_classes=family.classes, **family.model_args))
    name = save_folder(tmp_path / "model", family, model)
    texts = save_head(tmp_path / "texts.safetensors", width, ["owl", "ant", "sky"])
    out = build(asked(tmp_path / "out", pictures, model=name, head=tmp_path / "texts.safetensors"), Quiet())
    state = model.state_dict()
    E = texts if width == SMALL["embed_dim"] else texts @ state["head.weight"]
    with Index(out) as index:
        rows = index.sql("SELECT score FROM class_scores ORDER BY layer, unit, class_id").score.to_numpy()
        expected = torch.cat([state[f"blocks.{i}.mlp.fc2.weight"].T @ E.T for i in range(SMALL["depth"])])
        close(rows.reshape(-1, 3), expected)
        labelled = index.sql("SELECT DISTINCT class FROM images JOIN classes USING (class_id) ORDER BY class")
        assert labelled["class"].tolist() == ["ant", "owl"]
        pixels = torch.from_numpy(index.arrays["inputs"][:]).permute(0, 3, 1, 2) / 255
        x = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.inference_mode():  # what the model itself gives, projection bias and all
            close(index.arrays["logits"][:], model(x) @ texts.T, 1e-3)


def test_files_of_the_wrong_kind_are_refused_with_their_remedy(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    save_head(tmp_path / "wide.safetensors", 17, ["a", "b"])
    with pytest.raises(ModelError, match=r"reads 17 features, the model gives 192"):
        make_plan(asked(tmp_path / "out", pictures, weights=tiny, head=tmp_path / "wide.safetensors"))
    torch.save({"head.weight": torch.zeros(5, 192)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"not a safetensors file\. .*safetensors\.torch\.save_file"):
        make_plan(asked(tmp_path / "out", pictures, weights=tmp_path / "model.pth"))
    with pytest.raises(ModelError, match=r"no model 'google/vit'\. .* --model hf-hub:google/vit\."):
        make_plan(asked(tmp_path / "out", pictures, weights=tiny, model="google/vit"))
    with pytest.raises(ModelError, match=r"no model 'vit_tiny_patch16_225'.*vit_tiny_patch16_224"):
        make_plan(asked(tmp_path / "out", pictures, model="vit_tiny_patch16_225"))
