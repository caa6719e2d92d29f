"""Reading what lies on disk: every way in which that can fail is one line for the user."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustlabels.errors import DataError

HOW = "--data-root (data_root= in Python) names the folder that holds it; nothing is downloaded"


def find(name: str, root: str | Path | None, layout: Sequence[str]) -> Path:
    """The folder ``root``, checked to hold every path of ``layout``.

    Raises:
        DataError: it says where was looked, and for what.
    """
    if root is None:
        raise DataError(f"data set {name!r} is read from disk ({layout[0]}, ...): {HOW}")
    folder = Path(root).expanduser()
    for path in layout:
        if not (folder / path).exists():
            raise DataError(f"data set {name!r}: {folder.resolve()} lacks {path}: {HOW}")
    return folder


def one_line(error: BaseException) -> str:
    """An exception's type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


class Npz:
    """The arrays of an .npz file, read one by one, without pickle.

    Args:
        path: the file.

    Raises:
        DataError: there is no such file, or it is not an .npz file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = self._guarded(lambda: np.load(path, allow_pickle=False))
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is not an .npz file but a single array")
        self.keys = tuple(self._file.files)

    def __getitem__(self, key: str) -> np.ndarray[Any, Any]:
        """One array; a DataError if it is missing or corrupt."""
        if key not in self.keys:
            raise DataError(f"{self.path} lacks the array {key!r}; it has {', '.join(self.keys)}")
        array: np.ndarray[Any, Any] = self._guarded(lambda: self._file[key])
        return array

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise DataError(f"there is no file {self.path}") from error
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path} can't be read as .npz: {one_line(error)}") from error
