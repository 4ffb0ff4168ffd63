"""The one door for hooks: what modules read and write is kept, or changed, while inside a `with`. Imports torch.

with recording(outputs={"fc1": mlp.fc1}, inputs={"head": head}) as kept:
    model(pixels)
kept["fc1"], kept["head"]

with changed(mlp.fc2, lambda hidden: hidden * 0, "input"):    # what if these neurons were silent?
    model(pixels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import Tensor, nn

End = Literal["input", "output"]


@contextmanager
def recording(
    outputs: Mapping[str, nn.Module] | None = None, inputs: Mapping[str, nn.Module] | None = None
) -> Iterator[dict[str, Tensor]]:
    """While inside: what modules last wrote and last read, by the names given to them, as the graph has it."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda value: kept.__setitem__(name, value)

    with ExitStack() as hooks:
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
