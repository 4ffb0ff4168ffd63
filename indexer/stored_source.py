"""What a new head takes from a finished index: through the gate, for it may be a stranger's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor, nn

from ..schemas.array_specs import arrays
from ..schemas.database import open_tables
from ..schemas.errors import STRANGE, BadIndex, DamagedIndex
from ..schemas.facts import ImageFacts, content_facts
from ..schemas.integrity import listed_files
from ..schemas.layout import Layout
from ..schemas.manifest import read_manifest
from ..schemas.run_spec import READOUTS, RunSpec
from ..schemas.storage.array_reader import ArrayReader
from ..schemas.storage.local_store import LocalStore
from ..schemas.storage.plain_files import read_plain
from .tables.build_tables import kept_in_tables
from .tables.class_space import StoredSpace
from .tables.filled_index import HEAD_BIAS, NORM_BIAS, Columns

ROW_BYTES = 64  # of a neuron in the statistics, more than it has
HEADER_BYTES = 10_000_000  # of the statistics, more than they have
SHOWN = 20_000  # exemplars by which a nonlinearity is known


class StoredSource:
    """An index that has all that another head needs.

    Raises BadIndex where it has not, or is none; DamagedIndex where a file is not as it was.
    """

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path)
        self.manifest = read_manifest(self.layout)
        self.spec = RunSpec.from_json(self.manifest["run"])
        self.reader = ArrayReader(LocalStore(self.layout.root), arrays(self.spec))
        if not any(layer.has_value_vectors for layer in self.spec.layers):
            raise BadIndex(
                f"{path} has no value vectors, of which a head makes scores", "Index again with --layer fc1."
            )
        self._check_features()
        self._constants = self._read_constants()

    def space(self) -> StoredSpace:
        """Value vectors, nonlinearity and the final norm's bias."""
        bias = self._constants.get(NORM_BIAS)
        return StoredSpace(self.reader, self.spec, self._act(), None if bias is None else torch.from_numpy(bias))

    def own_head(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of the model's own head; None where the index has another or none."""
        if self.spec.head != "model":
            return None
        bias = self._constants.get(HEAD_BIAS)
        return torch.from_numpy(self.reader.whole("head")), None if bias is None else torch.from_numpy(bias)

    def images(self) -> list[ImageFacts]:
        """Every image as it was listed, read or not."""
        columns = 'path, label, width, height, crop."left", crop.top, crop."right", crop.bottom, reason'
        query = f"SELECT {columns} FROM images LEFT JOIN failures USING (path) ORDER BY image_id"
        with open_tables(self.layout, self.spec) as db:
            rows = db.execute(query).fetchall()
        if len(rows) != self.spec.images:
            raise BadIndex(f"{self.layout.database} names an image twice", STRANGE)
        return [
            ImageFacts(
                path, label, width, height, None if crop[0] is None else (crop[0], crop[1], crop[2], crop[3]), why
            )
            for path, label, width, height, *crop, why in rows
        ]

    def class_names(self) -> list[str]:
        """The names of the present head's rows."""
        with open_tables(self.layout, self.spec) as db:
            return [name for (name,) in db.execute("SELECT class FROM classes ORDER BY class_id").fetchall()]

    def kept(self) -> dict[str, Columns]:
        """The columns of `neurons` that no array holds."""
        return kept_in_tables(self.layout, self.spec)

    def _check_features(self) -> None:
        """Raise BadIndex where a readable image's features are beyond float16."""
        valid = self.reader.whole("valid")
        for first, features in self.reader.parts("features"):
            readable = valid[first : first + len(features)]
            if not np.isfinite(features[readable]).all():
                fact = f"features in {self.layout.root} are beyond float16, in which they are stored"
                raise BadIndex(fact, "Index again with --head.")

    def _read_constants(self) -> dict[str, NDArray[np.float32]]:
        """The biases of the final norm and the head, as far as the model has them."""
        stored, out = self._statistics(), {}
        wanted = {HEAD_BIAS: (self.spec.classes,)}
        if self.spec.readout in READOUTS:
            wanted[NORM_BIAS] = (self.spec.features,)
            if NORM_BIAS not in stored:
                raise BadIndex(
                    f"{self.layout.root} does not keep its final norm's bias: an older vitdex made it",
                    f"Remove {self.layout.statistics} and repeat the 'vitdex index' command that made it with "
                    "--repair: no image is read.",
                )
        for name in wanted.keys() & stored.keys():
            values = stored[name]
            if values.shape != wanted[name] or values.dtype != np.float32 or not np.isfinite(values).all():
                raise BadIndex(f"{name} in {self.layout.statistics} is no bias of this model", STRANGE)
            out[name] = values.astype(np.float32)
        return out

    def _statistics(self) -> dict[str, NDArray[np.generic]]:
        file = self.layout.statistics
        key = file.relative_to(self.layout.root).as_posix()
        most = HEADER_BYTES + self.spec.neurons * ROW_BYTES + 4 * (self.spec.features + self.spec.classes)
        try:
            content = read_plain(self.layout.root, key, most)
            if content_facts(content) != listed_files(self.manifest).get(key):
                raise DamagedIndex(f"{file} is damaged")
            return load(content)
        except FileNotFoundError as error:
            raise DamagedIndex(f"{file} is missing") from error
        except OSError as error:
            raise DamagedIndex(f"{file} is {error.strerror}") from error
        except (SafetensorError, ValueError, KeyError) as error:
            raise BadIndex(f"{file} holds no statistics", STRANGE) from error

    def _act(self) -> nn.Module:
        """The nonlinearity by the name that the run gives it, once it makes of stored exemplars what is stored."""
        hidden = [layer.name for layer in self.spec.layers if layer.kind == "hidden"]
        if not hidden:
            return nn.Identity()
        query = f"SELECT pre, post FROM exemplars WHERE layer = ? AND isfinite(pre) LIMIT {SHOWN}"
        with open_tables(self.layout, self.spec) as db:
            rows = db.execute(query, hidden[:1]).fetchnumpy()
        pre, post = (torch.from_numpy(np.asarray(rows[name], np.float32)) for name in ("pre", "post"))
        for act in _named(self.spec.activation):
            if torch.allclose(act(pre.clone()), post, rtol=1e-5, atol=1e-6):
                return act
        fact = f"'{self.spec.activation}', the nonlinearity of {self.layout.root}, is not known here"
        raise BadIndex(fact, "Index again with --head.")


def _named(name: str) -> list[nn.Module]:
    """Nonlinearities of this name: torch's, else timm's. Of one name they may differ in their settings."""
    if name == "GELU":
        return [nn.GELU(), nn.GELU("tanh")]
    module = getattr(nn, name) if name in nn.modules.activation.__all__ else None
    if module is None:
        from timm.layers import activations  # half a second more, for what torch lacks

        module = getattr(activations, name, None)
        if getattr(module, "__module__", None) != activations.__name__ or not isinstance(module, type):
            return []
    try:
        return [module()]
    except TypeError:  # attention: no nonlinearity, and a name that no run gave
        return []
