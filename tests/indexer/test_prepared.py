"""The prepared forward pass against torch's own: the same numbers, and a model that is left as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from test_repair import flip_somewhere, part_file
from test_resume import content, request
from vitdex.indexer import plan as plans
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Plan, make_plan, sample_request
from vitdex.indexer.repair import repair
from vitdex.indexer.run.capture import Capture
from vitdex.indexer.run.prepared import _norms_before_products, forward_of, prepared, prepared_bytes
from vitdex.schemas.run_spec import Forward, Precision

IMAGES = 16


def planned(tmp_path: Path, precision: Precision) -> Plan:
    return make_plan(sample_request(tmp_path / "a", limit=IMAGES, device="cpu", precision=precision, maps="float16"))


def captured(plan: Plan, forward: Forward) -> dict[str, torch.Tensor]:
    """What a batch leaves, in float64."""
    plan = replace(plan, spec=replace(plan.spec, forward=forward, compiled=False))
    size = plan.spec.preprocessing["input_size"][1]
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, size, size, 3), dtype=torch.uint8, generator=random)
    with prepared(plan.anatomy.model, plan.spec), Capture(plan.anatomy, plan.spec, plan.head, None) as capture:
        arrays = capture(pixels, range(IMAGES)).arrays
    return {path: values.double() for path, values in arrays.items() if values.is_floating_point()}


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, of the other's range."""
    return float((one - other).abs().max() / (other.max() - other.min()))


def exact(plan: Plan) -> dict[str, torch.Tensor]:
    """In float32, which is far more exact than what it judges."""
    return captured(replace(plan, spec=replace(plan.spec, precision="float32")), "plain")


def test_float32_is_that_of_the_plain_pass(tmp_path: Path) -> None:
    plan = planned(tmp_path, "float32")
    assert plan.spec.forward == "prepared"
    plain, ours = captured(plan, "plain"), captured(plan, "prepared")
    assert set(plain) == set(ours)
    assert len(ours) > 20
    for path, values in ours.items():
        rounded = path.endswith("map") or path == "features"  # to float16
        assert error(values, plain[path]) < (1e-3 if rounded else 5e-6), path


def test_bfloat16_is_as_exact_as_the_plain_pass(tmp_path: Path) -> None:
    plan = planned(tmp_path, "bfloat16")
    assert plan.spec.forward == "prepared"
    plain, ours, right = captured(plan, "plain"), captured(plan, "prepared"), exact(plan)
    for path, values in ours.items():
        assert error(values, right[path]) < 1.1 * error(plain[path], right[path]) + 1e-6, path


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_is_left_as_it_was(tmp_path: Path, precision: Precision) -> None:
    plan = planned(tmp_path, precision)
    model = plan.anatomy.model
    before = {name: values.clone() for name, values in model.state_dict().items()}
    weights = [(weight, weight.requires_grad) for weight in model.parameters()]
    with prepared(model, plan.spec):
        assert all("forward" in vars(m) for m in model.modules() if type(m) is torch.nn.Linear)
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(
        w is weight and w.requires_grad == grad for w, (weight, grad) in zip(model.parameters(), weights, strict=True)
    )
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], values) for name, values in before.items())


@pytest.mark.parametrize(("precision", "share"), [("float32", 0), ("bfloat16", 0.5)])
def test_what_it_adds_to_the_memory(tmp_path: Path, precision: Precision, share: float) -> None:
    plan = planned(tmp_path, precision)
    model, head = plan.anatomy.model, plan.anatomy.head
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    assert isinstance(head, torch.nn.Linear)
    expected = share * sum(m.weight.nbytes for m in linear) + (share or 1) * head.weight.nbytes
    assert prepared_bytes(model, plan.spec) == expected
    assert prepared_bytes(plan.anatomy.model, replace(plan.spec, forward="plain")) == 0


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_weights_that_are_read_past_their_layer_stay(tmp_path: Path, name: str) -> None:
    """These multiply by qkv.weight with a bias of their own, and never call qkv."""
    spec = planned(tmp_path, "float32").spec
    model = timm.create_model(name, depth=1).eval()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model(x)
        with prepared(model, spec):
            torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-5)


def test_only_norms_that_products_alone_read_are_rounded() -> None:
    """On CUDA: a norm whose output is added to the stream, or split, is read in float32."""
    names = {
        "vit_tiny_patch16_224": 24, "deit3_small_patch16_224": 24, "vit_small_patch14_reg4_dinov2": 24,
        "vit_srelpos_small_patch16_224": 0, "beit_base_patch16_224": 0, "eva02_tiny_patch14_224": 0,
    }  # fmt: skip
    for name, norms in names.items():
        with torch.device("meta"):
            model = timm.create_model(name)
        assert sum(len(_norms_before_products(module)) for module in model.modules()) == norms, name


def no_packing(*_: object) -> None:
    raise RuntimeError("mkldnn is not built in\nmore of it")


def test_without_packed_products_the_plain_pass_runs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", no_packing)
    plan = planned(tmp_path, "float32")
    assert plan.spec.forward == "plain"
    assert "mkldnn is not built in" in plan.notes[-1]
    assert "more of it" not in plan.notes[-1]


def test_packed_products_that_are_wrong_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: product(*args) + 0.1)
    plan = planned(tmp_path, "bfloat16")
    assert plan.spec.forward == "plain"
    assert "come out wrong" in plan.notes[-1]


def test_where_it_pays() -> None:
    assert forward_of("cpu", "float16", True) == ("plain", "")  # no such products
    assert forward_of("cuda:1", "float32", True) == ("plain", "")  # nothing to round
    assert forward_of("cuda:1", "bfloat16", True) == ("prepared", "")
    assert forward_of("cuda:1", "bfloat16", False) == ("plain", "")
    assert forward_of("mps", "bfloat16", False) == ("plain", "")


def test_an_index_of_the_plain_pass_is_repaired_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all are that were made before there was another."""
    small = replace(request(tmp_path / "a"), limit=20, part_images=10, batch_size=10)
    with monkeypatch.context() as patch:
        patch.setattr(plans, "forward_of", lambda *_: ("plain", ""))
        build(small, Quiet())
    whole = content(tmp_path / "a")
    flip_somewhere(part_file(tmp_path / "a", 1, "/map"))
    assert len(repair(small, Quiet())) == 1
    assert content(tmp_path / "a") == whole
