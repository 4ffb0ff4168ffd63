"""The folder or address where an index is filled (schemas/workers/site.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...schemas.addressed import is_address, shown_address
from ...schemas.errors import BadIndex
from ...schemas.layout import Layout
from ...schemas.manifest import LARGEST, Manifest, read_manifest
from ...schemas.storage.remote_folder import RemoteFolder
from ...schemas.storage.writable import LocalFolder
from ...schemas.workers.site import Site
from ..place import check_place


class IndexSite(Site):
    """An index in the making."""

    layout: Layout

    def check(self) -> None:
        """Raise BadIndex where no index can be made, or something else stands."""
        if self.address is None:
            check_place(self.layout, overwrite=False)
        elif self.files.names("") and self.files.content(self.layout.key(self.layout.run)) is None:
            raise BadIndex(f"{self.name} holds other files", "Choose a new name for the index.")

    def manifest(self) -> Manifest | None:
        """That of a finished index; None where there is none yet. Raises BadIndex where it is damaged."""
        content = self.files.content(self.layout.manifest.name)
        if content is None or len(content) > LARGEST:
            return None
        if self.address is not None:
            self.layout.root.mkdir(parents=True, exist_ok=True)
            self.layout.manifest.write_bytes(content)
        return read_manifest(self.layout)


@contextmanager
def site_at(out: Path | str) -> Iterator[IndexSite]:
    """The site at a folder, or at an address."""
    if not (isinstance(out, str) and is_address(out)):
        layout = Layout(Path(out))
        yield IndexSite(layout, LocalFolder(layout.root), str(out), None)
        return
    with tempfile.TemporaryDirectory(prefix="vitdex-") as work:
        address = out.rstrip("/")
        yield IndexSite(Layout(Path(work) / "index"), RemoteFolder(address), shown_address(address), address)
