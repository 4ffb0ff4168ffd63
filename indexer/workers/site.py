"""Where several workers fill an index: a folder that all of them see, or an address that all of them can write to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ...schemas.addressed import is_address, shown_address
from ...schemas.errors import BadIndex
from ...schemas.facts import Files
from ...schemas.integrity import check_files
from ...schemas.integrity_elsewhere import faults_elsewhere
from ...schemas.layout import Layout
from ...schemas.manifest import Manifest, read_manifest
from ...schemas.storage.layered_store import LayeredStore
from ...schemas.storage.local_store import LocalStore
from ...schemas.storage.only_writer import only_writer
from ...schemas.storage.patience import Patience
from ...schemas.storage.remote_folder import RemoteFolder
from ...schemas.storage.remote_store import RemoteStore
from ...schemas.storage.store import Store
from ...schemas.storage.writable import LocalFolder, Writable
from ..place import check_place, remove_leftovers


@dataclass(frozen=True)
class Site:
    """An index in the making. `layout` is its folder; of one at an address, a folder for what is made here and sent."""

    layout: Layout
    files: Writable
    name: str  # as users may see it
    address: str | None

    def check(self) -> None:
        """Raise BadIndex where no index can be made, or something else stands."""
        if self.address is None:
            check_place(self.layout, overwrite=False)
        elif self.files.names("") and self.files.content(self.layout.key(self.layout.run)) is None:
            raise BadIndex(f"{self.name} holds other files", "Choose a new name for the index.")

    def only_writer(self) -> AbstractContextManager[None]:
        """While inside, no other run fills a folder, as far as its system tells; at an address leases alone do."""
        return only_writer(self.layout) if self.address is None else nullcontext()

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

    def store(self, files: Files) -> Store | None:
        """Where the arrays of a filled index are read; None: in its folder."""
        if self.address is None:
            return None
        sizes = {path: size for path, (size, _) in files.items()}
        return LayeredStore(LocalStore(self.layout.root), RemoteStore(self.address, sizes, patience=Patience()))

    def clean_up(self) -> None:
        """Remove what a finished index does not need."""
        if self.address is None:
            remove_leftovers(self.layout)
        else:
            self.files.clear(self.layout.key(self.layout.working))


@contextmanager
def site_at(out: Path | str) -> Iterator[Site]:
    """The site at a folder, or at an address."""
    if not (isinstance(out, str) and is_address(out)):
        layout = Layout(Path(out))
        yield Site(layout, LocalFolder(layout.root), str(out), None)
        return
    with tempfile.TemporaryDirectory(prefix="vitdex-") as work:
        address = out.rstrip("/")
        yield Site(Layout(Path(work) / "index"), RemoteFolder(address), shown_address(address), address)
