"""What can be said of the CUDA path where there is no GPU: a trace of it as CUDA, and its lanes with a late stream."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vitdex.indexer.memory_needed import batch_bytes
from vitdex.indexer.plan import Plan, make_plan, sample_request
from vitdex.indexer.run import capture as captures
from vitdex.indexer.run import lanes, part_runner, reduce
from vitdex.indexer.run.capture import Capture, Captured
from vitdex.indexer.run.chunk_sums import sum_chunks
from vitdex.indexer.run.part_runner import Filled, Recorder, fresh_statistics, run_parts
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.indexer.run.prepared import forward_of, prepared
from vitdex.indexer.run.replay import LAUNCHED, Recorded, Replay
from vitdex.indexer.statistics.exemplar_maps import RunningMaps
from vitdex.schemas import array_specs
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.errors import VitdexWarning
from vitdex.schemas.run_spec import Maps, Part, Precision

pytest.importorskip("triton")  # not on every system


class Crossings(TorchDispatchMode):
    """Every operator that brings something from the device to the host: a plain `.cpu()` a fake tensor lets pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        there = any(isinstance(a, Tensor) and a.device.type == "cuda" for a in args)
        if there and isinstance(out, Tensor) and out.device.type == "cpu":
            self.found.append(str(func))
        return out


class Held(TorchDispatchMode):
    """The most bytes that tensors on the device held at once, beside those that were there before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.see((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self.see(out, new=True)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return out

    def see(self, values: Any, new: bool) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and value.device.type == "cuda":
                storage = value.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = new * storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)


def on_fake_cuda(module: nn.Module, mode: FakeTensorMode) -> None:
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(mode.from_tensor(value.detach()).to("cuda"), requires_grad=False)


def traced(
    tmp_path: Path,
    watch: TorchDispatchMode,
    precision: Precision = "float32",
    maps: Maps = "uint8",
    fault: Callable[[Capture], None] | None = None,
) -> tuple[Plan, Captured]:
    """Two batches through the capture of a CUDA run; what the second leaves."""
    request = sample_request(tmp_path / "a", limit=8, batch_size=4, device="cpu", maps=maps, precision=precision)
    plan = make_plan(request)
    forward = forward_of("cuda", precision, kernels=True)[0]
    plan = replace(plan, spec=replace(plan.spec, device="cuda", compiled=True, counted_patches=4, forward=forward))
    size = plan.spec.preprocessing["input_size"][1]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        on_fake_cuda(plan.anatomy.model, mode)
        statistics = fresh_statistics(plan.spec)
        statistics.lay_bins({layer.name: torch.ones(2, layer.units) for layer in plan.spec.layers})
        capture = Capture(plan.anatomy, plan.spec, plan.head, statistics)
        if fault:
            fault(capture)
        with prepared(plan.anatomy.model, plan.spec), capture, watch:
            pixels = torch.zeros(4, size, size, 3, dtype=torch.uint8)
            capture(pixels, range(4))
            captured = capture(pixels, range(4, 8))
    return plan, captured


@pytest.fixture(autouse=True)
def _no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked memory and autocast ask for one."""
    monkeypatch.setattr(captures, "to_device", lambda values, device: values.to(device))
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("maps", ["uint8", "float16", "none"])
def test_a_batch_stays_on_the_device(tmp_path: Path, precision: Precision, maps: Maps) -> None:
    crossings = Crossings()
    plan, captured = traced(tmp_path, crossings, precision, maps)
    assert not crossings.found
    assert captured.sizes.device.type == "cuda"
    stored = {a.path: a for a in arrays(plan.spec).values() if a.by_part}
    assert set(stored) - set(captured.arrays) == {"valid", "inputs"}
    for path, values in captured.arrays.items():
        assert values.device.type == "cuda", path
        assert values.shape == (4, *stored[path].shape[1:]), path
        kind = "f" if stored[path].dtype.startswith("float") else "u"
        assert np.dtype(stored[path].dtype).kind == kind == ("f" if values.is_floating_point() else "u"), path


def test_kernels_are_launched_on_the_device_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes the thread's current device, whatever its arguments lie on."""
    plan = make_plan(sample_request(tmp_path / "a", limit=4, device="cpu", workers=0))
    now: list[str] = []

    @contextmanager
    def device(name: str) -> Iterator[None]:
        now.append(name)
        try:
            yield
        finally:
            now.pop()

    def launched(*_: object) -> None:
        assert now == ["cuda:1"]
        raise OSError("a launch")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(reduce, "reduce_fused", launched)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert reduce.without_kernels("cuda:1") == "a launch"
    monkeypatch.setattr(part_runner, "lane_for", launched)
    elsewhere = replace(plan, spec=replace(plan.spec, device="cuda:1"))
    with pytest.raises(OSError, match="a launch"):
        run_parts(elsewhere, elsewhere.spec.parts, None, lambda images, written: None, Recorder(launched))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("maps", ["uint8", "exemplars", "none"])
def test_what_a_batch_holds_is_told(tmp_path: Path, precision: Precision, maps: Maps) -> None:
    held = Held()
    plan, _ = traced(tmp_path, held, precision, maps)
    assert batch_bytes(plan.spec) == pytest.approx(held.peak, rel=0.1)


def test_maps_of_exemplars_stay_on_the_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), Crossings() as crossings:
        running = RunningMaps(5, 6, 9, torch.device("cuda"))
        running.add(torch.zeros(4, 5, device="cuda"), torch.arange(4, device="cuda"),
                    torch.zeros(4, 5, 9, dtype=torch.uint8, device="cuda"))  # fmt: skip
    assert not crossings.found
    assert running.codes.device.type == "cuda"


def test_a_tensor_left_on_the_host_is_found(tmp_path: Path) -> None:
    def fault(capture: Capture) -> None:
        capture.mean = torch.zeros(3, 1, 1)

    with pytest.raises(RuntimeError, match="device"):
        traced(tmp_path, Crossings(), fault=fault)


def test_a_hidden_wait_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Capture._sizes

    def asks(capture: Capture) -> Tensor:
        return sizes(capture) * sizes(capture).sum().item()

    monkeypatch.setattr(Capture, "_sizes", asks)
    with pytest.raises(DataDependentOutputException):
        traced(tmp_path, Crossings())


def test_a_copy_to_the_host_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Capture._sizes
    monkeypatch.setattr(Capture, "_sizes", lambda capture: sizes(capture).cpu())
    crossings = Crossings()
    traced(tmp_path, crossings)
    assert crossings.found


@dataclass
class LateCopy:
    place: Tensor
    piece: Tensor
    done: bool = False


ONE_AT_A_TIME = threading.Lock()  # the run and its writer both wait for copies


class LateStream:
    """A stream that copies when it is waited for, not before: what is read too early is scrambled."""

    def __init__(self) -> None:
        self.copies: list[LateCopy] = []

    def enter(self) -> None: ...

    def computed(self) -> lanes.Reached:
        return lanes.Reached()

    def copy(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> LateMark:
        for place, piece in pairs:
            place.view(torch.uint8).random_(1, 255)
            self.copies.append(LateCopy(place, piece))
        return LateMark(list(self.copies))


@dataclass
class LateMark:
    copies: list[LateCopy]

    def synchronize(self) -> None:
        with ONE_AT_A_TIME:
            for copy in self.copies:
                if not copy.done:
                    copy.place.copy_(copy.piece)
                    copy.piece.view(torch.uint8).random_(1, 255)  # nobody reads it again
                    copy.done = True


def recorded(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
    """A recording as CUDA makes it: always the same memory, which holds nothing until it is repeated."""
    kept = {path: torch.empty_like(values) for path, values in launch().arrays.items()}
    sizes = torch.empty_like(launch().sizes)
    for place in (*kept.values(), sizes):
        place.view(torch.uint8).random_(1, 255)

    def repeat() -> None:
        now = launch()
        sizes.copy_(now.sizes)
        for path, values in now.arrays.items():
            kept[path].copy_(values)

    return Recorded(repeat, Captured(kept, sizes))


def files_of(plan: Plan, counting: bool = True) -> dict[str, bytes]:
    """The content of every file of a run's parts."""
    kept: dict[str, bytes] = {}

    def keep(part: Part, buffer: PartBuffer, filled: Filled) -> None:
        kept.update(buffer.store(part.index, lambda path, content: (path, bytes(content))).values())

    statistics = fresh_statistics(plan.spec) if counting else None
    run_parts(plan, plan.spec.parts, statistics, lambda images, written: None, Recorder(keep))
    return kept


@pytest.fixture(params=[(5, 3), (4, 4), (3, 2)], ids=["batches", "one batch a part", "small"])
def plan(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Maps in several chunks a file, as larger models have them."""
    monkeypatch.setattr(array_specs, "units_per_chunk", partial(array_specs.units_per_chunk, most=100_000))
    part, batch = request.param
    plan = make_plan(
        sample_request(tmp_path / "a", part_images=part, limit=10, batch_size=batch, device="cpu", workers=0)
    )
    return replace(plan, spec=replace(plan.spec, compiled=False))  # as on CUDA, a batch's arrays are its own


def test_a_late_stream_changes_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = files_of(plan)
    monkeypatch.setattr(part_runner, "lane_for", lambda spec: lanes.CopyLane(LateStream()))
    late = files_of(plan)
    assert len(at_once) > 100
    assert [path for path in at_once if at_once[path] != late[path]] == []


@pytest.mark.parametrize("plan", [(4, 4)], indirect=True, ids=["one batch a part"])
def test_chunks_come_with_their_checksums(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole parts; the host sums the last, which is not. The files are the same, and a wrong sum is seen."""
    at_once, calls = files_of(plan), []

    def sums(chunks: Tensor) -> bool:
        calls.append(sum_chunks(chunks))
        chunks[0, -1] += wrong
        return calls[-1]

    monkeypatch.setattr(part_runner, "lane_for", lambda spec: lanes.CopyLane(LateStream(), sums))
    for wrong in (0, 1):
        calls.clear()
        late = files_of(plan)
        assert calls == [True] * len(plan.spec.layers) * (plan.spec.images // plan.spec.part_images)
        different = {path for path in at_once if at_once[path] != late[path]}
        assert len(different) == wrong * len(calls)


def test_a_part_that_is_read_too_early_is_found(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = files_of(plan, counting=False)  # what is counted is brought after the part, and the copies with it
    monkeypatch.setattr(part_runner, "lane_for", lambda spec: lanes.CopyLane(LateStream()))
    monkeypatch.setattr(PartBuffer, "arriving", lambda buffer, path, mark, summed: None)
    late = files_of(plan, counting=False)
    assert [path for path in at_once if at_once[path] != late[path]]


@pytest.mark.parametrize("cloned", [True, False])
def test_recorded_batches_leave_the_same(cloned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the next batch writes over before it is copied is found."""
    request = sample_request(tmp_path / "a", part_images=11, limit=40, batch_size=4, device="cpu", workers=0)
    plan = make_plan(request)
    plan = replace(plan, spec=replace(plan.spec, compiled=False))
    launched = files_of(plan, counting=False)
    made: list[Recorded] = []

    def record(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
        made.append(recorded(capture, launch))
        return made[-1]

    monkeypatch.setattr(part_runner, "lane_for", lambda spec: lanes.CopyLane(LateStream()))
    monkeypatch.setattr(part_runner, "repeating", lambda capture: Replay(capture, 4, record))
    if not cloned:
        monkeypatch.setattr(Tensor, "clone", lambda values: values)
    repeated = files_of(plan, counting=False)
    assert len(made) == 1
    assert ([path for path in launched if launched[path] != repeated[path]] == []) is cloned


def refused(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def wrongly_recorded(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
    """One that always leaves what it left the first time."""
    captured = launch()
    captured.arrays["features"] += 1
    return Recorded(lambda: None, captured)


@pytest.mark.parametrize(
    ("record", "why"), [(refused, r"not permitted when stream is capturing\)$"), (wrongly_recorded, "otherwise than")]
)
def test_what_cannot_be_recorded_is_launched_and_said(
    record: Callable[[Capture, Callable[[], Captured]], Recorded], why: str, tmp_path: Path
) -> None:
    plan = make_plan(sample_request(tmp_path / "a", limit=16, batch_size=4, device="cpu", workers=0))
    size = plan.spec.preprocessing["input_size"][1]
    pixels = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)
    with Capture(plan.anatomy, replace(plan.spec, compiled=False), plan.head, None) as capture:
        replay = Replay(capture, 4, record)
        wanted = [replay(pixels, range(4)).arrays["features"] for _ in range(LAUNCHED)]
        with pytest.warns(VitdexWarning, match=why):
            found = replay(pixels, range(4))
        assert torch.equal(found.arrays["features"], wanted[0])
        assert torch.equal(replay(pixels, range(4)).arrays["features"], wanted[0])  # and is not tried again


def test_a_batch_is_counted_once_when_it_is_recorded(tmp_path: Path) -> None:
    plan = make_plan(sample_request(tmp_path / "a", limit=16, batch_size=4, device="cpu", workers=0))
    spec = replace(plan.spec, compiled=False)
    size = spec.preprocessing["input_size"][1]
    pixels = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)
    statistics = fresh_statistics(spec)
    statistics.lay_bins({layer.name: torch.ones(2, layer.units) for layer in spec.layers})

    def record(capture: Capture, launch: Callable[[], Captured]) -> Recorded:
        capture.statistics = None  # a recording runs nothing
        captured = launch()
        capture.statistics = statistics
        return Recorded(lambda: captured.arrays.update(launch().arrays), captured)

    with Capture(plan.anatomy, spec, plan.head, statistics) as capture:
        replay = Replay(capture, 4, record)
        for _ in range(LAUNCHED + 2):
            replay(pixels, range(4))
    counts = statistics.counts[spec.layers[0].name].sum(1)
    assert (counts == (LAUNCHED + 2) * 4 * spec.counted_patches).all()
