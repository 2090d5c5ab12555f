"""Who asks, decided at the door: a key's bytes → the client, from the rights file beside the releases.

The path of a known key is two dictionary lookups. Nothing here needs the database. A rights file that is damaged or
gone leaves the last good rights in force and is said loudly; a gateway that never had good ones lets nobody in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from retinue.core.access import ANONYMOUS, MAX_KEY, Client, Rights
from retinue.core.errors import CorruptArtifactError, ForbiddenError, UnauthenticatedError, UnavailableError
from retinue.store import accessfile

MAX_WRONG = 4096  # wrong keys that are remembered; a flood of others costs a dictionary lookup each
MAX_NAMES = 4096  # endpoint names that are remembered per key: they come from clients

Note = Callable[[str, str], None]


class Access:
    """The rights of this moment. `say(event, text)` is told what people must know, at most once per change."""

    def __init__(
        self,
        say: Note = lambda event, text: None,
        *,
        anonymous: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._say = say
        self._clock = clock
        self._anonymous = anonymous  # requests without a key are served even though clients are registered
        self._path: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._rights: Rights | None = Rights(())
        self._loaded = False  # good rights were read at some time
        self._ends: float | None = None  # when the next key ends
        self._keys: dict[bytes, Client] = {}
        self._may: dict[bytes, set[str]] = {}  # key → names it has been let through to
        self._wrong: set[bytes] = set()
        self.trouble: str | None = None  # why the rights in force are not those on disk
        self.rejected = 0  # requests without a live key
        self.forbidden = 0  # requests of known clients for what they may not call

    # ------------------------------------------------------------------------------------------------ at the door
    def client(self, key: bytes | None, endpoint: str) -> Client:
        """Who asks, if they may call that endpoint or model.

        Raises UnauthenticatedError without a live key, ForbiddenError for another's endpoint, UnavailableError while
        no rights could be read.
        """
        if key is not None:
            may = self._may.get(key)
            if may is not None and endpoint in may:
                return self._keys[key]
        client = self.who(key)
        if not client.may(endpoint):
            self.forbidden += 1
            raise ForbiddenError(f"client {client.name!r} may not call {endpoint!r:.120}")
        if key is not None and client is not ANONYMOUS:
            names = self._may.setdefault(key, set())
            if len(names) < MAX_NAMES:
                names.add(endpoint)
        return client

    def who(self, key: bytes | None) -> Client:
        """Whose key this is, whatever they may call; for metadata and lists. Raises as `client` does."""
        rights = self._rights
        if rights is None:
            raise UnavailableError(f"nobody can be let in: {self.trouble}", hint="Run `retinue clients list` there.")
        if not rights.closed or (key is None and self._anonymous):
            return ANONYMOUS
        if key is None:
            self.rejected += 1
            raise UnauthenticatedError("this server asks for an API key")
        found = self._keys.get(key)
        return found if found is not None else self._verify(rights, key)

    def _verify(self, rights: Rights, key: bytes) -> Client:
        if key not in self._wrong:
            client = rights.verify(key, self._clock())
            if client is not None:
                self._keys[key] = client
                return client
            if len(key) <= MAX_KEY:
                if len(self._wrong) >= MAX_WRONG:
                    self._wrong.clear()
                self._wrong.add(key)
        self.rejected += 1
        raise UnauthenticatedError("the API key is unknown, or has ended")

    # --------------------------------------------------------------------------------------------- what is in force
    def watch(self, folder: Path) -> None:
        """Take the rights beside the releases in this folder, now; `tick` follows their changes."""
        path = folder / accessfile.NAME
        if path != self._path:
            self._path, self._stamp = path, None
            self._look()

    def tick(self) -> None:
        """Look for changes; called by the gateway's clock several times a second. Costs one `stat`."""
        if self._path is not None:
            self._look()
        if self._ends is not None and self._clock() >= self._ends:
            self._forget()

    def _look(self) -> None:
        assert self._path is not None
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._loaded or self._rights is None:
                self._trouble("the rights file is gone")
            return  # or there is none yet: no client was ever registered
        except OSError as error:
            self._trouble(f"the rights file cannot be read: {error.strerror or error}")
            return
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return
        try:
            self._rights = accessfile.read_access(self._path)
        except CorruptArtifactError as error:
            self._trouble(str(error))
            return
        changed, self._loaded, self._stamp = self._loaded, True, stamp
        self._forget()
        if self.trouble is not None:
            self.trouble = None
            self._say("access.restored", "the rights file is sound again")
        elif changed:
            self._say("access.changed", "the rights of clients changed")

    def _trouble(self, text: str) -> None:
        """Keep what is in force; without good rights ever seen, what holds is unknown and nobody is let in."""
        self._stamp = None  # look again, also at a file that did not change: the fault may be of the moment
        if not self._loaded:
            self._rights = None
        if text != self.trouble:
            self.trouble = text
            self._say("access.damaged", f"{text}; the last good rights stay in force" if self._loaded else text)

    def _forget(self) -> None:
        """Decide every key anew."""
        self._keys.clear()
        self._may.clear()
        self._wrong.clear()
        self._ends = self._rights.next_end(self._clock()) if self._rights is not None else None
