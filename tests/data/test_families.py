"""Where the parts of a model are looked for: by hand-made modules, each with one name of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from vitdex.data.models.families import GAINS, first_head, gain_of, mlp_names, mlp_of, patch_grid
from vitdex.schemas.errors import ModelError


def holding(**parts: object) -> nn.Module:
    """A module with these attributes."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def blocks_of(mlp: nn.Module) -> nn.Module:
    return holding(blocks=nn.ModuleList([holding(mlp=mlp)]))


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("in_module", [True, False])
def test_gains_under_every_name_as_a_module_or_a_parameter(name: str, in_module: bool) -> None:
    gamma = nn.Parameter(torch.tensor([2.0, 3.0]))
    block = holding(**{name: holding(gamma=gamma) if in_module else gamma})
    assert gain_of(block, 2).tolist() == [2, 3]
    assert not gain_of(block, 2).requires_grad


def test_no_gain_is_ones() -> None:
    assert gain_of(holding(ls2=nn.Identity()), 3).tolist() == [1, 1, 1]


def test_plain_mlps_are_named_with_their_block() -> None:
    mlp = holding(fc1=nn.Linear(2, 4), act=nn.GELU(), fc2=nn.Linear(4, 2))
    model = blocks_of(mlp)
    assert mlp_names(model) == [("blocks.0.mlp.fc1", 0)]
    assert mlp_of(model, "blocks.0.mlp.fc1") == (mlp.fc1, mlp.act, mlp.fc2, None, None)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"fc1": nn.Conv1d(2, 4, 1), "act": nn.GELU(), "fc2": nn.Linear(4, 2)}, "is not a plain linear layer"),
        ({"fc1": nn.Linear(2, 4), "act": nn.GELU(), "fc2": nn.Identity()}, "is not a plain linear layer"),
        ({"fc1": nn.Linear(2, 4), "fc2": nn.Linear(4, 2)}, "after 'blocks.0.mlp.fc1' there is no module 'act'"),
    ],
)
def test_mlps_of_other_parts_are_refused(parts: dict[str, nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        mlp_of(blocks_of(holding(**parts)), "blocks.0.mlp.fc1")


def test_a_model_without_plain_mlps_names_its_first_other() -> None:
    with pytest.raises(ModelError, match=r"no plain 'blocks\.N\.mlp\.fc1' \(its first MLP is 'stages\.0\.w12'"):
        mlp_names(holding(stages=nn.ModuleList([holding(w12=nn.Linear(2, 2))])))
    with pytest.raises(ModelError, match=r"no plain 'blocks\.N\.mlp\.fc1'\. vitdex reads"):
        mlp_names(holding(layer=nn.Linear(2, 2)))


def test_patch_grids() -> None:
    assert patch_grid(holding(patch_embed=holding(grid_size=(3, 5)))) == (3, 5)
    for model in (holding(), holding(patch_embed=holding(grid_size=None)), holding(patch_embed=nn.Identity())):
        with pytest.raises(ModelError, match="has no patch grid"):
            patch_grid(model)


def test_first_of_two_heads() -> None:
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    assert first_head(holding(get_classifier=lambda: one)) is one
    assert first_head(holding(get_classifier=lambda: (one, two))) is one
    assert isinstance(first_head(holding()), nn.Identity)
