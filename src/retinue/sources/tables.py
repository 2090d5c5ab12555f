"""The files behind a table: which they are, how they are recognised again, and CSV made into Parquet once.

A CSV file (plain, gzip or zip) is converted into the cache under the identity of its file, with types found
from all of its rows; from there on every table is Parquet.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retinue.core.errors import DataError, StateUnavailableError
from retinue.core.identity import digest
from retinue.core.portfolio import TableSpec

RACY = 2.0
"""Seconds after a change in which size and time of a file may stay the same although it changes once more."""

CONVERTER = 1
CSV_MEMBERS = (".csv", ".tsv", ".txt")
NULLS = ("", "NA", "N/A", "NULL", "null", "None")
"""What means missing in a column that otherwise is not text; in text only the empty field is missing."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file is recognised by. `content` is its SHA-256 if it changed too lately for its time to be trusted."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    content: str | None

    def to_json(self) -> list[str | int | None]:
        """As JSON."""
        return [self.path, self.size, self.mtime_ns, self.inode, self.content]


def files_of(spec: TableSpec, root: Path) -> tuple[Path, ...]:
    """The files of a base table, sorted by path. Raises DataError when there is none."""
    path = spec.path or ""
    if "://" in path:
        raise DataError(
            f"table {spec.name}: {path} is not a local path",
            where=spec.where,
            hint="Name a local Parquet or CSV file under `path:`.",
        )
    full = root / path
    try:
        full.exists()
    except OSError as error:
        raise DataError(f"table {spec.name}: {path:.80} cannot be read: {error.strerror}", where=spec.where) from error
    if any(c in path for c in "*?["):
        found = sorted(Path(p) for p in glob.glob(str(full), recursive=True) if Path(p).is_file())
        if full.is_file():  # a real name that happens to hold a bracket
            found = [full]
        if not found:
            raise DataError(
                f"table {spec.name}: no file matches {path}",
                where=spec.where,
                hint=f"Check the pattern; it is taken relative to {root}.",
            )
        return tuple(found)
    if full.is_dir():
        raise DataError(
            f"table {spec.name}: {path} is a folder",
            where=spec.where,
            hint=f"Name its files with a pattern, for example {path.rstrip('/')}/*.parquet.",
        )
    if not full.is_file():
        raise DataError(
            f"table {spec.name}: there is no file {path}",
            where=spec.where,
            hint=f"Put the file there or correct `path:`; it is taken relative to {root}.",
        )
    return (full,)


def stamps_of(spec: TableSpec, root: Path, now: float) -> list[Stamp] | None:
    """The stamps of a base table's files at `now` (seconds since the epoch); None when they cannot be read."""
    try:
        return [stamp(path, now) for path in files_of(spec, root)]
    except (DataError, OSError):
        return None  # said when the table is used; until then nothing depends on it


def stamp(path: Path, now: float) -> Stamp:
    """The stamp of one file. Raises OSError."""
    stat = path.stat()
    racy = abs(now - stat.st_mtime) < RACY
    content = None
    if racy:
        with path.open("rb") as data:
            content = hashlib.file_digest(data, "sha256").hexdigest()
    return Stamp(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, content)


def format_of(spec: TableSpec, path: Path) -> Literal["parquet", "csv"]:
    """The declared format, else by the name's ending. Raises DataError for an ending that says nothing."""
    if spec.format is not None:
        return spec.format
    name = path.name.lower()
    for suffix in (".gz", ".zip"):
        name = name.removesuffix(suffix)
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(CSV_MEMBERS) or path.suffix.lower() == ".zip":
        return "csv"
    raise DataError(
        f"table {spec.name}: the name {path.name} does not tell its format",
        where=spec.where,
        hint="Add `format: parquet` or `format: csv` to the table.",
    )


def parquet_files(spec: TableSpec, root: Path, cache: Path, now: float) -> tuple[Path, ...]:
    """The table's files as Parquet, CSV converted into `cache` where that has not been done yet.

    Raises DataError naming the file that is missing, empty or unreadable.
    """
    return tuple(as_parquet(spec, path, cache, now) for path in files_of(spec, root))


def as_parquet(spec: TableSpec, path: Path, cache: Path, now: float) -> Path:
    """A file as Parquet: itself, or what its CSV was converted into."""
    if spec.path is None or format_of(spec, path) == "parquet":  # what queries and functions leave is Parquet
        return path
    return _converted(spec, path, cache, now)


def literal(text: str) -> str:
    """A SQL string literal.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A SQL identifier, quoted.

    >>> identifier('a "b"')
    '"a ""b\"""'
    """
    return '"' + name.replace('"', '""') + '"'


def _converted(spec: TableSpec, path: Path, cache: Path, now: float) -> Path:
    folder = cache / "sources"
    target = folder / f"{digest([CONVERTER, stamp(path, now).to_json()])[:40]}.parquet"
    if _whole(target):
        return target
    if path.stat().st_size == 0:
        raise DataError(
            f"table {spec.name}: {path} is empty",
            where=spec.where,
            hint="A CSV file needs at least its line of column names.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
            part = Path(scratch) / "out.parquet"
            _convert(spec, path, _plain(spec, path, Path(scratch)), part)
            os.replace(part, target)
    except OSError as error:
        raise StateUnavailableError(
            f"table {spec.name}: {path} could not be converted into {folder}: {error}",
            where=spec.where,
            hint="Free disk space or correct the permissions of the state folder, then run the same command again.",
        ) from error
    return target


def _whole(path: Path) -> bool:
    """Whether a converted file has both of Parquet's marks: a torn one is made again."""
    try:
        with path.open("rb") as data:
            head = data.read(4)
            data.seek(-4, os.SEEK_END)
            return head == b"PAR1" == data.read(4)
    except OSError:
        return False


def _plain(spec: TableSpec, path: Path, scratch: Path) -> list[Path]:
    """Files that DuckDB can read: the file itself, or the unpacked members of a zip."""
    if path.suffix.lower() != ".zip":
        return [path]
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(m for m in archive.namelist() if m.lower().endswith(CSV_MEMBERS))
            for number, member in enumerate(members):
                out = scratch / f"{number}.csv"  # never the member's own name: it may point anywhere
                with archive.open(member) as source, out.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                found.append(out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"table {spec.name}: {path} is not a readable zip archive: {error}",
            where=spec.where,
            hint="Make the archive anew, or name the unpacked CSV file.",
        ) from error
    if not found:
        raise DataError(
            f"table {spec.name}: {path} holds no .csv file",
            where=spec.where,
            hint="Put CSV files into the archive; others are not read.",
        )
    return found


def _convert(spec: TableSpec, path: Path, plain: list[Path], target: Path) -> None:
    """CSV → Parquet. Nothing is skipped or guessed away; a column that is numeric but for `NA` is numeric."""
    import duckdb

    names = "[" + ", ".join(literal(str(p)) for p in plain) + "]"
    nulls = ", ".join(literal(n) for n in NULLS)
    options = "sample_size = -1, header = true, skip = 0"
    if len(plain) > 1:
        options += ", union_by_name = true"
    if path.suffix.lower() == ".gz":
        options += ", compression = 'gzip'"
    source = f"read_csv({names}, {options}, nullstr = '')"
    with duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False}) as con:
        try:
            con.execute("SET TimeZone = 'UTC'")
            kinds = {str(r[0]): str(r[1]) for r in con.execute(f"DESCRIBE FROM {source}").fetchall()}
            select = "*"
            if "VARCHAR" in kinds.values():
                lenient = con.execute(f"DESCRIBE FROM read_csv({names}, {options}, nullstr = [{nulls}])").fetchall()
                casts = [
                    f"CAST(CASE WHEN {identifier(str(c))} NOT IN ({nulls}) THEN {identifier(str(c))} END AS {kind}) "
                    f"AS {identifier(str(c))}"
                    for c, kind, *_ in lenient
                    if kind != "VARCHAR" and kinds.get(str(c)) == "VARCHAR"
                ]
                select = f"* REPLACE ({', '.join(casts)})" if casts else "*"
            query = f"SELECT {select} FROM {source}"  # noqa: S608 - quoted by literal, identifier
            con.execute(f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet)")
        except duckdb.Error as error:
            text = str(error)
            if isinstance(error, duckdb.IOException) and "space" in text:
                raise OSError(text) from error
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            raise DataError(
                f"table {spec.name}: {path} is not readable as CSV: {' '.join(lines[:3])}",
                where=spec.where,
                hint="Correct the line that is named, or convert the file to Parquet.",
            ) from error
