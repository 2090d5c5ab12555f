"""A version's own modules: found in memory, seen only while its code runs, so that versions never meet.

One worker hosts many versions whose code has the same module names. While a version's code runs, a finder that knows
its files goes before all others and its modules stand in `sys.modules`; afterwards both are as they were. That holds
for imports inside of functions too. A lock keeps threads apart.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LOCK = threading.RLock()


class Modules(importlib.abc.MetaPathFinder):
    """The modules of one version: `files` by path relative to the project, `mark` makes their file names its own."""

    def __init__(self, files: Mapping[str, bytes], mark: str) -> None:
        self.mark = mark
        self._files = dict(files)
        self._own: dict[str, Any] = {}
        self._tops = frozenset(path.split("/")[0].split(".")[0] for path in self._files)
        folders = {path.rpartition("/")[0] for path in self._files}
        self._folders = {"/".join(f.split("/")[:n]) for f in folders if f for n in range(1, len(f.split("/")) + 1)}

    @contextlib.contextmanager
    def seen(self) -> Iterator[None]:
        """Import and run this version's code in the block."""
        with _LOCK:
            hidden = self._take() if any(top in sys.modules for top in self._tops) else {}
            sys.modules.update(self._own)
            sys.meta_path.insert(0, self)
            count = len(sys.modules)
            try:
                yield
            finally:
                sys.meta_path.remove(self)
                if len(sys.modules) != count:
                    self._own = self._take()
                else:
                    for name in self._own:
                        sys.modules.pop(name, None)
                sys.modules.update(hidden)

    def own(self, filename: str) -> str | None:
        """A file of this version as the project names it; None for any other."""
        head = self.mark + "/"
        return filename[len(head) :] if filename.startswith(head) else None

    def _take(self) -> dict[str, Any]:
        """What goes by names of this version's, taken out of `sys.modules`."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._tops]
        return {name: sys.modules.pop(name) for name in names}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module if it is in this version's files; a folder without `__init__.py` is a package too."""
        base = fullname.replace(".", "/")
        for file in (base + "/__init__.py", base + ".py"):
            if file in self._files:
                package = file.endswith("/__init__.py")
                loader = _Loader(fullname, f"{self.mark}/{file}", self._files[file])
                spec = importlib.machinery.ModuleSpec(fullname, loader, origin=loader.path, is_package=package)
                spec.has_location = True
                if package:
                    spec.submodule_search_locations = [f"{self.mark}/{base}"]
                return spec
        if base in self._folders:
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [f"{self.mark}/{base}"]
            return spec
        return None


class _Loader(importlib.abc.SourceLoader):
    """One file; tracebacks find its lines through `get_source`."""

    def __init__(self, name: str, path: str, data: bytes) -> None:
        self.name, self.path, self._data = name, path, data

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: Any) -> bytes:
        if path == self.path:
            return self._data
        raise FileNotFoundError(path)
