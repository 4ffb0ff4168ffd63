"""A page of the atlas in a notebook: a frame onto a server that a thread of the notebook's own process runs."""

from __future__ import annotations

import html
import threading
import weakref
from types import TracebackType
from typing import Self
from urllib.parse import quote

from ...schemas.errors import QueryError
from ...schemas.shown_text import escaped
from ..stored.names import Neuron, NeuronLike
from ..stored.stored_index import StoredIndex
from .atlas import Atlas
from .serve import HERE, listen, server_of

SECONDS = 5.0  # that whoever stops a server waits for the answers that are being made


class NotebookServer:
    """An index's atlas on a port of 127.0.0.1, for as long as a page of it is open.

    Its thread is a daemon: it keeps no program from ending.
    """

    def __init__(self, index: StoredIndex, port: int) -> None:
        own = listen(port)
        self.port: int = own.getsockname()[1]
        self._server = server_of(Atlas(index), self.port, framed=True)
        self._pages: set[object] = set()
        self._turn = threading.RLock()
        name = f"vitdex atlas {self.port}"
        self._thread = threading.Thread(target=self._server.run, args=[[own]], name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once it is to stop, and in a forked child, which has no such thread."""
        return self._thread.is_alive() and not self._server.should_exit

    def enter(self, page: object) -> bool:
        """Serve one more page; False where it serves none any more."""
        with self._turn:
            self._pages.add(page)
            return self.running

    def leave(self, page: object) -> None:
        """The last one stops it. Python may call this anywhere, even in the server's thread: it waits for nothing."""
        with self._turn:
            self._pages.discard(page)
            if not self._pages:
                self._server.should_exit = True

    def stop(self) -> None:
        """Stop it, whatever pages are open, and wait."""
        self._server.should_exit = True
        self.wait()

    def wait(self) -> None:
        """Wait until a stopped one has ended and its port is free; answers being made have SECONDS to be ready."""
        if not self.running:
            self._thread.join(SECONDS)


class AtlasPage:
    """A page of the served atlas, which Jupyter shows in a frame.

    It ends with close(), at the end of a `with`, with its index, and when nothing holds it any more; its server ends
    with the last page of the index. What a cell shows Jupyter holds in `Out`, until the kernel ends.
    """

    def __init__(self, server: NotebookServer, mark: object, place: str, title: str, height: int) -> None:
        self.address = f"http://{HERE}:{server.port}/{place}"
        self.title, self.height, self.server = title, height, server
        self._leave = weakref.finalize(self, server.leave, mark)

    @property
    def closed(self) -> bool:
        """Whether it is closed, or its index is."""
        return not (self._leave.alive and self.server.running)

    def close(self) -> None:
        """Close the page; without another of its index, the server too. A second call does nothing."""
        self._leave()
        self.server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AtlasPage {'closed' if self.closed else self.address}>"

    def _repr_html_(self) -> str:
        """The frame; the browser must run on the machine of the kernel, or have its port forwarded."""
        if self.closed:
            return "<p>This page of the atlas is closed.</p>"
        address, title = (html.escape(text) for text in (self.address, escaped(self.title)))
        return (
            f'<iframe src="{address}" title="{title}" width="100%" height="{self.height}" '
            'style="border:1px solid #8884" allow="clipboard-write"></iframe>'
            f'<p><a href="{address}" target="_blank" rel="noopener">{address}</a> '
            "lasts as long as the index is open. Where nothing is shown, run the cell again.</p>"
        )


def open_page(
    index: StoredIndex, server: NotebookServer | None, place: str, height: int = 700, port: int = 0
) -> AtlasPage:
    """A page at a place of the front end, of a server that may run already. See Index.atlas.

    Raises QueryError where the port is taken, or the server has another.
    """
    mark = object()
    if server is None or not server.enter(mark):
        server = NotebookServer(index, port)
        server.enter(mark)
    elif port not in (0, server.port):
        server.leave(mark)
        raise QueryError(f"the atlas of this index is at port {server.port}", "Close its pages first, or name no port.")
    return AtlasPage(server, mark, place, f"Atlas of {index.name}", height)


def place_of(
    index: StoredIndex,
    neuron: NeuronLike | None = None,
    class_: str | int | None = None,
    image: str | int | None = None,
) -> str:
    """Where a page lies in the front end, such as '#/neuron/blocks.4.mlp.fc1/473'; '' for the first.

    Raises QueryError where there is no such neuron, class or image, and where more than one is named.
    """
    if sum(named is not None for named in (neuron, class_, image)) > 1:
        raise QueryError("a page shows a neuron, a class or an image", "Name one of them.")
    if neuron is not None:
        layer, unit = Neuron.of(neuron)
        index.neuron_layer(layer, unit)
        return f"#/neuron/{quote(layer, safe='')}/{unit}"
    if class_ is not None:
        return f"#/class/{quote(_class_word(index, index.class_id(class_)), safe='')}"
    if image is not None:
        return f"#/image/{index.image_id(image)}"
    return ""


def _class_word(index: StoredIndex, class_id: int) -> str:
    """What the front end knows one class by: its name; its WordNet id, else its number, where others have the name."""
    names = index.classes.name.tolist()
    name, wnid = names[class_id], index.classes.wnid.tolist()[class_id]
    if names.count(name) == 1:
        return str(name)
    return wnid if isinstance(wnid, str) and wnid not in names else str(class_id)
