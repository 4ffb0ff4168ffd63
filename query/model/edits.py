"""The one door for hooks: what modules read and write is kept, or changed, while inside a `with`. Imports torch.

with recording(outputs={"fc1": mlp.fc1}, inputs={"head": head}) as kept:
    model(pixels)
kept["fc1"], kept["head"]

with changed(mlp.fc2, lambda hidden: hidden * 0, "input"):    # what if these neurons were silent?
    model(pixels)

with skipped(blocks[:4]), changed(blocks[4], lambda _: kept, "input"):    # from block 4 on
    model(pixels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

from torch import Tensor, nn

End = Literal["input", "output"]


class _EnoughRecorded(Exception):
    """Everything that was wanted is there."""


@contextmanager
def recording(
    outputs: Mapping[str, nn.Module] | None = None,
    inputs: Mapping[str, nn.Module] | None = None,
    no_more: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """While inside: what modules last wrote and last read, by the names given to them, as the graph has it.

    no_more: the block inside ends as soon as every one of them is there, so that later modules do not run.
    """
    kept: dict[str, Tensor] = {}
    wanted = len(outputs or {}) + len(inputs or {})

    def keep(name: str) -> Callable[[Tensor], None]:
        def note(value: Tensor) -> None:
            kept[name] = value
            if no_more and len(kept) == wanted:
                raise _EnoughRecorded

        return note

    with suppress(*[_EnoughRecorded] * no_more), ExitStack() as hooks:  # another recording's is not ours to end
        for name, module in (outputs or {}).items():
            hooks.enter_context(changed(module, keep(name), "output"))
        for name, module in (inputs or {}).items():
            hooks.enter_context(changed(module, keep(name), "input"))
        yield kept


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor | None], end: End) -> Iterator[None]:
    """While inside: what a module reads, or writes, is what `change` makes of it; None leaves it as it is."""
    if end == "output":
        hook = module.register_forward_hook(lambda m, args, out: change(out))
    else:
        hook = module.register_forward_pre_hook(lambda m, args: change(args[0]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def skipped(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While inside: these modules hand on what they read, and compute nothing."""
    with ExitStack() as stack:
        for module in modules:
            before = vars(module).get("forward")  # of the module alone, which hides that of its class
            vars(module)["forward"] = lambda x, *_, **__: x
            stack.callback(_restore, module, before)
        yield


def _restore(module: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward
