"""The registry's tables, portable between SQLite and PostgreSQL. What they hold is told in docs/reference/state.md.

`seq` columns only order rows ("newest first"); what identifies a row is in its unique constraint. JSON is kept as
canonical text, so that equal values are equal bytes in every database. A change here needs a numbered migration.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from retinue.store import registry_mark

REVISION = registry_mark.REVISION

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


def _text(name: str, *, null: bool = False, key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null, primary_key=key)


def _seq() -> Column[int]:
    return Column("seq", Integer, primary_key=True, autoincrement=True)


definitions = Table("definitions", metadata, _text("hash", key=True), _text("model"), _text("body"), _text("bundle"))

snapshots = Table("snapshots", metadata, _text("hash", key=True), _text("body"))

versions = Table(
    "versions",
    metadata,
    _seq(),
    _text("portfolio"),
    _text("id"),
    _text("model"),
    Column("definition", Text, ForeignKey("definitions.hash"), nullable=False),
    Column("snapshot", Text, ForeignKey("snapshots.hash"), nullable=False),
    Column("sibling", Integer, nullable=False),
    _text("manifest"),
    _text("created"),
    UniqueConstraint("portfolio", "id"),
    UniqueConstraint("portfolio", "definition", "snapshot", "sibling"),
    Index(None, "portfolio", "model"),
    Index(None, "id"),
)

evidence = Table(
    "evidence",
    metadata,
    _seq(),
    _text("version"),
    _text("upstreams"),
    _text("gates"),
    _text("verdict"),
    _text("results"),
    _text("champion", null=True),
    _text("created"),
    Index(None, "version"),
)

release_maps = Table("release_maps", metadata, _text("digest", key=True), Column("body", LargeBinary, nullable=False))

releases = Table(
    "releases",
    metadata,
    _text("portfolio", key=True),
    _text("stage", key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("map", Text, ForeignKey("release_maps.digest"), nullable=False),
    _text("groups"),
    Column("parent", Integer, nullable=True),
    _text("cause"),
    _text("why"),
    _text("who"),
    _text("plan", null=True),
    _text("created"),
)

stages = Table(
    "stages",
    metadata,
    _text("portfolio", key=True),
    _text("stage", key=True),
    Column("number", Integer, nullable=True),  # null: leases were taken, nothing has landed yet
    Column("fence", Integer, nullable=False),
    ForeignKeyConstraint(["portfolio", "stage", "number"], ["releases.portfolio", "releases.stage", "releases.number"]),
)

changes = Table(
    "changes",
    metadata,
    _text("portfolio", key=True),
    _text("stage", key=True),
    Column("release", Integer, primary_key=True, autoincrement=False),
    _text("model", key=True),
    _text("old", null=True),
    _text("new", null=True),
    ForeignKeyConstraint(
        ["portfolio", "stage", "release"], ["releases.portfolio", "releases.stage", "releases.number"]
    ),
    ForeignKeyConstraint(["portfolio", "old"], ["versions.portfolio", "versions.id"]),
    ForeignKeyConstraint(["portfolio", "new"], ["versions.portfolio", "versions.id"]),
    Index(None, "portfolio", "stage", "model", "release"),
)

leases = Table(
    "leases",
    metadata,
    _text("portfolio", key=True),
    _text("stage", key=True),
    _text("model", key=True),
    _text("holder"),
    Column("fence", Integer, nullable=False),
    _text("expires"),
)

holds = Table(
    "holds",
    metadata,
    _seq(),
    _text("portfolio"),
    _text("stage"),
    _text("model"),
    _text("definition"),
    _text("snapshot"),
    _text("version", null=True),
    _text("cause"),
    _text("detail"),
    _text("gates"),
    _text("created"),
    Column("release", Integer, nullable=True),
    _text("ended", null=True),
    _text("ended_why", null=True),
    Index(
        "uq_holds_active",
        "portfolio",
        "stage",
        "model",
        "definition",
        "snapshot",
        unique=True,
        sqlite_where=text("ended IS NULL"),
        postgresql_where=text("ended IS NULL"),
    ),
)

applies = Table(
    "applies",
    metadata,
    _seq(),
    _text("id"),
    _text("portfolio"),
    _text("stage"),
    _text("plan"),
    _text("who"),
    _text("status"),
    _text("created"),
    _text("ended", null=True),
    _text("summary"),
    UniqueConstraint("id"),
    Index(None, "portfolio", "stage"),
)

settings = Table(
    "settings",
    metadata,
    _text("portfolio", key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    _text("body"),
    _text("why"),
    _text("who"),
    _text("created"),
)

audit = Table(
    "audit",
    metadata,
    _seq(),
    _text("portfolio"),
    _text("created"),
    _text("who"),
    _text("act"),
    _text("what"),
    _text("why"),
    _text("plan", null=True),
    Index(None, "portfolio"),
)

# One row a client: what it may and its keys' digests, replaced as a whole if it still is what was read.
clients = Table("clients", metadata, _text("portfolio", key=True), _text("name", key=True), _text("body"))

# What was handed over for models of `artifact: published`; the newest row of a model is what its file wishes.
publications = Table(
    "publications",
    metadata,
    _seq(),
    *map(_text, ("portfolio", "model", "digest", "format", "claimed", "why", "who", "created")),
    Column("size", BigInteger, nullable=False),
    Index(None, "portfolio", "model"),
)
