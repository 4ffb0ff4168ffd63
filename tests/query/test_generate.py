"""Generated images: what is excited, what is said about it, and that the index and the model stay as they were."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Reference, hear_ctrl_c
from PIL import Image
from vitdex.query.commands.generate import generate_command
from vitdex.query.generate.canvases import FourierCanvas
from vitdex.query.generate.judge import judge
from vitdex.query.generate.objectives import Seen, class_logit, excite, gram_cosines, see
from vitdex.query.generate.optimise import optimise
from vitdex.query.generate.recipes import RECIPES
from vitdex.query.generate.run import beginning, generate_images
from vitdex.query.generate.target import Over, Target
from vitdex.query.index import Index
from vitdex.query.lookups.key_neurons import key_neurons, named
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.query.notes.generated_images import keep, remove
from vitdex.query.stored.names import Neuron
from vitdex.schemas.errors import QueryError, VitdexError

NEURON = Neuron("blocks.5.mlp.fc1", 159)


@pytest.fixture(scope="module")
def own(sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sample's index that notes may be put beside."""
    return Path(shutil.copytree(sample_path, tmp_path_factory.mktemp("generate") / "own.vitdex"))


@pytest.fixture
def live(own: Path) -> Iterator[LiveModel]:
    with Index(own) as index:
        yield open_model(index)


def checksums(out: Path) -> dict[str, str]:
    files = (p for p in out.rglob("*") if p.is_file() and not p.relative_to(out).as_posix().startswith("notes"))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_values_end_with_the_last_layer_that_is_wanted(live: LiveModel) -> None:
    names, pixels = ["blocks.1.mlp.fc1", "blocks.3.mlp.fc1"], live.pixels([0, 7])
    whole, ran = live(pixels, names)[1], list[int]()
    blocks = live.anatomy.model.get_submodule("blocks").children()
    hooks = [block.register_forward_pre_hook(lambda *_, b=b: ran.append(b)) for b, block in enumerate(blocks)]
    some = live.values(pixels, names)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2, 3]
    assert some.keys() == whole.keys()
    assert all(torch.equal(some[name], whole[name]) for name in names)


@pytest.mark.parametrize("answer", [False, True])
def test_an_objective_that_reads_the_answer_gets_it(answer: bool, live: LiveModel) -> None:
    objective = excite(live, [NEURON])
    if answer:
        objective = objective + class_logit(live, 1)
    assert objective.answer == answer
    seen = see(live, live.pixels([0]), objective.layers, objective.answer)
    assert torch.equal(objective(seen), objective(see(live, live.pixels([0]), objective.layers)))
    assert (seen.logits.numel() > 0) == (seen.features.numel() > 0) == answer


def test_the_saved_image_scores_what_its_row_says(live: LiveModel, reference: Reference) -> None:
    before = checksums(live.index.layout.root)
    weights = {name: value.clone() for name, value in live.anatomy.model.state_dict().items()}
    rows = generate_images(live.index, Target((NEURON,), 0), k=2, seed=3, snapshots=[20, 40])
    assert rows.step.tolist() == [20, 20, 40, 40]
    assert checksums(live.index.layout.root) == before
    assert all(torch.equal(value, weights[name]) for name, value in live.anatomy.model.state_dict().items())
    folder = live.index.layout.notes_folder
    pixels = np.stack([np.asarray(Image.open(folder / file)) for file in rows.file]).astype(np.float32) / 255
    kept: list[torch.Tensor] = []
    hook = reference.model.get_submodule(NEURON.layer).register_forward_hook(lambda m, a, out: kept.append(out))
    with torch.inference_mode():
        logits = reference.model(torch.from_numpy((pixels - 0.5) / 0.5).permute(0, 3, 1, 2))
    hook.remove()
    pre = kept[0][:, 1:, NEURON.unit]
    real = reference.fc1[NEURON.layer][:, 1:, NEURON.unit].mean(1)
    mean = pre.mean(1).numpy()
    ratio = (mean - np.median(real)) / (real.max() - np.median(real))
    direct = {
        "pre_mean": mean,
        "pre_max": pre.amax(1),
        "post_mean": torch.nn.functional.gelu(pre).mean(1),
        "ratio": ratio,
        "percentile": [100 * (real < m).mean() for m in mean],
        "p_class": logits.softmax(1)[:, 0],
        "predicted": logits.argmax(1),
    }
    for name, expected in direct.items():
        np.testing.assert_allclose(rows[name], expected, rtol=2e-3, atol=1e-4, err_msg=name)
    assert rows.ratio[2:].min() > 1  # above the best real image
    with Index(live.index.layout.root) as again:
        assert set(rows.id) <= set(again.sql("SELECT id FROM generated WHERE unit = 159").id)


def test_every_objective_rises(live: LiveModel) -> None:
    class_id = 0
    two = (NEURON, Neuron("blocks.4.mlp.fc1", 7))
    targets = [
        Target((NEURON,), over="max"),
        Target((NEURON,), over=17),
        Target((NEURON,), post=True),
        Target(two),
        Target((NEURON,), class_id, over="logit"),
        Target((NEURON,), class_id, contrast="siblings"),
        Target((NEURON,), class_id, contrast="features"),
        Target((NEURON,), contrast="features"),
    ]
    for target in targets:
        values: list[float] = []
        made = replace(RECIPES["default"], snapshots=(12,))
        list(optimise(live, target.objective(live, 0), made, 1, 0, report=lambda step, v: values.append(v)))  # noqa: B023
        assert values[-1] > values[0] + (0 if target.post else 0.3), target  # GELU is flat where a neuron is silent


def test_objectives_are_what_they_are_called(live: LiveModel) -> None:
    values = {NEURON.layer: torch.randn(2, 144, 768, generator=torch.Generator().manual_seed(0))}
    seen = Seen(torch.zeros(2, 12), values, torch.zeros(2, 192))
    query = "SELECT pre_mean, pre_std FROM neurons WHERE layer = ? AND unit = ?"
    mean, std = live.index.sql(query, [*NEURON]).iloc[0]
    patches = values[NEURON.layer][..., NEURON.unit]
    cases: list[tuple[Over | int, torch.Tensor]]
    cases = [("mean", patches.mean(1)), ("max", patches.amax(1)), (17, patches[:, 17])]
    for over, expected in cases:
        found = Target((NEURON,), over=over).objective(live, 0)(seen)
        np.testing.assert_allclose(found, (expected - mean) / std, rtol=1e-4)
    post = Target((NEURON,), post=True).objective(live, 0)(seen)
    np.testing.assert_allclose(post, torch.nn.functional.gelu(patches).mean(1) / std, rtol=1e-3)


def test_gram_cosines_are_those_of_gram_matrices() -> None:
    features = torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(0)) - 1
    centred = features - features.mean(1, keepdim=True)
    grams = (centred.transpose(1, 2) @ centred).flatten(1)
    direct = torch.nn.functional.cosine_similarity(grams[:, None], grams[None], dim=2)
    np.testing.assert_allclose(gram_cosines(features), direct, rtol=1e-4)


def test_a_canvas_starts_where_it_is_told() -> None:
    start = torch.rand(1, 3, 30, 25, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    shown = FourierCanvas(start, torch.Generator().manual_seed(0), decay=1.5).pixels().detach()
    assert float((shown - start).abs().mean()) < 0.02  # a little noise, so that no two images of a batch are the same


def test_same_seed_same_bytes(live: LiveModel) -> None:
    objective = Target((NEURON,)).objective(live, 0)
    made = replace(RECIPES["robust"], copies=1, snapshots=(5,))
    first, again, other = (
        next(optimise(live, objective, made, 2, seed, diverse_in=NEURON.layer)).pixels for seed in (1, 1, 2)
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_diversity_lowers_the_cosine_and_keeps_the_score(live: LiveModel) -> None:
    target, made = Target((NEURON,)), replace(RECIPES["default"], snapshots=(48,))
    pushed, alone = (
        judge(live, target, next(optimise(live, target.objective(live, 0), r, 2, 0, diverse_in=NEURON.layer)).pixels)
        for r in (made, replace(made, diversity=0.0))
    )
    assert pushed.diversity.mean() < 0.7 * alone.diversity.mean()
    assert pushed.ratio.mean() > 0.9 * alone.ratio.mean()


def test_a_recipe_with_other_steps_and_diversity() -> None:
    default = RECIPES["default"]
    assert default.adapted(None, (), None) == default
    assert default.adapted(None, (5, 3), None).snapshots == (3, 5)
    assert default.adapted(None, (), 3.0) == replace(default, diversity=3.0)
    assert default.adapted(8, (), None).snapshots == (2, 4, 8)
    assert default.adapted(1, (), None).snapshots == (1,)
    assert RECIPES["plain"].adapted(30, (), None).snapshots == (10, 20, 30)
    other = default.adapted(20, (5,), 0.0)
    assert (other.snapshots, other.steps, other.diversity) == ((5, 20), 20, 0.0)
    for wrong in ((4, (5,), None), (0, (), None), (None, (), -1.0), (None, (), math.nan), (None, (), math.inf)):
        with pytest.raises(QueryError):
            default.adapted(*wrong)


def test_steps_and_diversity_on_the_command_line(own: Path) -> None:
    words = [str(own), "--neuron", str(NEURON), "-k", "2", "--steps", "4", "--json"]
    plain = CliRunner().invoke(generate_command, words)
    assert plain.exit_code == 0, plain.output
    apart = CliRunner().invoke(generate_command, [*words, "--diversity", "30"])
    assert apart.exit_code == 0, apart.output
    made = [row["id"] for out in (plain, apart) for row in json.loads(out.stdout)]
    with Index(own) as index:
        rows = index.sql(
            "SELECT recipe, step, min(diversity) AS d FROM generated WHERE list_contains(?, id) "
            "GROUP BY recipe, step ORDER BY recipe, step",
            [made],
        )
    assert rows.recipe.tolist() == ["default"] * 3 + ["default, diversity 30"] * 3
    assert rows.step.tolist() == [1, 2, 4] * 2
    assert rows.d[5] < rows.d[2]
    wrong = CliRunner().invoke(generate_command, [*words, "--snapshot", "9"])
    assert "snapshot 9 comes after the last of 4 steps. Give more steps." in str(wrong.exception)


def test_default_beats_plain_at_equal_steps(live: LiveModel) -> None:
    target = Target((NEURON,))
    scores, fine = {}, {}
    for name in ("default", "plain"):
        made = replace(RECIPES[name], snapshots=(48,))
        pixels = next(optimise(live, target.objective(live, 0), made, 1, 0)).pixels
        scores[name] = judge(live, target, pixels).ratio[0]
        power = np.abs(np.fft.fft2(pixels[0].mean(-1))) ** 2
        fine[name] = power[32:65, 32:65].sum()  # above a third of a cycle a pixel along both axes
    assert scores["default"] > scores["plain"]
    assert fine["default"] < 0.5 * fine["plain"]


@pytest.mark.parametrize("start", ["exemplars", "bird/000.jpg"])
def test_a_run_starts_from_stored_images(live: LiveModel, start: str) -> None:
    found = beginning(live, Target((NEURON,)), start, 2)
    ids = live.index.exemplars(*NEURON, k=15).image_id if start == "exemplars" else [live.index.image_id(start)]
    expected = np.mean([live.index.arrays["inputs"][i] / 255 for i in ids], axis=0)
    assert found is not None
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), [expected, expected], atol=1e-6)


def test_removed_leaves_nothing(live: LiveModel) -> None:
    layout = live.index.layout
    rows = generate_images(live.index, Target((NEURON,)), k=1, snapshots=[1])
    number, file = int(rows.id[0]), layout.notes_folder / rows.file[0]
    assert file.exists()
    with pytest.raises(QueryError, match="no generated image 99999"):
        remove(layout, [number, 99999])
    assert file.exists()
    remove(layout, [number])
    assert not file.exists()
    with Index(layout.root) as again:
        assert number not in set(again.sql("SELECT id FROM generated").id)


def test_a_failing_run_leaves_the_index_as_it_was(live: LiveModel) -> None:
    layout = live.index.layout
    generate_images(live.index, Target((NEURON,)), k=1, snapshots=[1])
    notes, files = {p.name for p in layout.notes_folder.iterdir()}, checksums(layout.root)
    rows = judge(live, Target((NEURON,)), np.zeros((1, 96, 96, 3), np.uint8)).assign(step=1, no_such_column=0)
    with pytest.raises(duckdb.Error):  # behind the PNG, in the transaction
        keep(layout, np.zeros((1, 96, 96, 3), np.uint8), rows)
    assert {p.name for p in layout.notes_folder.iterdir()} == notes
    assert checksums(layout.root) == files
    with Index(layout.root) as again:
        assert set(again.sql("SELECT file FROM generated").file) == notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to excite. Give --class or --neuron"),
        (["--class", "bird", "--over", "999"], "Patches count from 0 to 63."),
        (["--class", "bird", "--over", "most"], "One of mean, max, logit"),
        (["--neuron", "blocks.5.mlp.fc1"], "Write it like blocks.7.mlp.fc1:2014."),
        (["--neuron", "blocks.5.mlp.fc1:1", "--contrast", "siblings"], "Give --class."),
        (["--class", "bird", "--device", "nonsense"], "Leave out --device"),
        (["--remove", "99999"], "no generated image 99999"),
    ],
)
def test_wrong_use_is_one_line(own: Path, words: list[str], message: str) -> None:
    found = CliRunner().invoke(generate_command, [str(own), *words])
    assert isinstance(found.exception, VitdexError)
    assert message in str(found.exception)


def test_a_picture_of_the_snapshots(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "made.png"
    words = ["--class", "bird", "--images", "2", "--snapshot", "1", "--snapshot", "2", "-o", str(output), "--json"]
    found = CliRunner().invoke(generate_command, [str(own), *words])
    assert [row["step"] for row in json.loads(found.stdout)] == [1, 1, 2, 2]
    with Image.open(output) as picture:
        assert picture.width > 400  # two snapshots and the real exemplars side by side


def test_stopping_keeps_what_is_there(own: Path, tmp_path: Path) -> None:
    code = "from vitdex.query.commands.main import main; main()"
    words = ["generate", str(own), "--class", "coin", "--images", "1", "--snapshot", "3", "--snapshot", "100000"]
    with Index(own) as index:
        before = len(index.sql("SELECT id FROM generated"))
        unit = named(key_neurons(index, "coin", 1))[0].unit
    command = [sys.executable, "-c", code, *words]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    try:
        for _ in range(100):
            time.sleep(1)  # long enough that the image is kept and the next steps run
            with Index(own) as index:
                if len(index.sql("SELECT id FROM generated")) > before:
                    break
        time.sleep(1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "what there was is kept" in said
    with Index(own) as index:
        kept = index.sql("SELECT unit, step FROM generated ORDER BY id DESC LIMIT 2")
    assert kept.unit.tolist() == [unit, unit]
    assert kept.step[0] > 3 == kept.step[1]
