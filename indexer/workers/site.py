"""The folder or address where an index is filled (schemas/workers/site.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...schemas.addressed import is_address, shown_address
from ...schemas.errors import BadIndex
from ...schemas.facts import Files
from ...schemas.integrity import check_files
from ...schemas.integrity_elsewhere import faults_elsewhere
from ...schemas.layout import Layout
from ...schemas.manifest import Manifest, read_manifest
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
        return self.read_manifest() if self.layout.manifest.name in self.files.names("") else None

    def read_manifest(self) -> Manifest:
        """That of a finished index. Raises BadIndex for anything else, with the remedy."""
        self.bring(self.layout.manifest)
        self.bring(self.layout.run)
        try:
            return read_manifest(self.layout)
        except BadIndex as error:  # said of where it lies, not of what was brought here
            error.args = (error.args[0].replace(str(self.layout.root), self.name),)
            raise

    def bring(self, path: Path) -> None:
        """Have a file of the index in its layout, if there is one."""
        self.files.bring(self.layout.key(path), path)

    def faulty(self, listed: Files, advance: Callable[[int], object]) -> set[str]:
        """The files that are damaged or missing, of those that are listed. `advance` is told the bytes read."""
        if self.address is None:
            return {finding.path for finding in check_files(self.layout, listed, advance=advance)}
        return {path for path, _, _ in faults_elsewhere(self.address, listed, (), False, advance)}


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
