"""The first schema.

A migration is frozen once released: it repeats what `tables` said then, and never imports it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From an empty database."""
    op.create_table(
        "applies",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_applies")),
        sa.UniqueConstraint("id", name=op.f("uq_applies_id")),
    )
    op.create_index(op.f("ix_applies_portfolio_stage"), "applies", ["portfolio", "stage"], unique=False)
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_portfolio"), "audit", ["portfolio"], unique=False)
    op.create_table(
        "definitions",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_definitions")),
    )
    op.create_table(
        "evidence",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("upstreams", sa.Text(), nullable=False),
        sa.Column("gates", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("results", sa.Text(), nullable=False),
        sa.Column("champion", sa.Text(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_evidence")),
    )
    op.create_index(op.f("ix_evidence_version"), "evidence", ["version"], unique=False)
    op.create_table(
        "holds",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("gates", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("ended_why", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_holds")),
    )
    op.create_index(
        "uq_holds_active",
        "holds",
        ["portfolio", "stage", "model", "definition", "snapshot"],
        unique=True,
        sqlite_where=sa.text("ended IS NULL"),
        postgresql_where=sa.text("ended IS NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("portfolio", "stage", "model", name=op.f("pk_leases")),
    )
    op.create_table(
        "release_maps",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_release_maps")),
    )
    op.create_table(
        "settings",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("portfolio", "revision", name=op.f("pk_settings")),
    )
    op.create_table(
        "snapshots",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "releases",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("map", sa.Text(), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["map"], ["release_maps.digest"], name=op.f("fk_releases_map")),
        sa.PrimaryKeyConstraint("portfolio", "stage", "number", name=op.f("pk_releases")),
    )
    op.create_table(
        "versions",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("sibling", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["definition"], ["definitions.hash"], name=op.f("fk_versions_definition")),
        sa.ForeignKeyConstraint(["snapshot"], ["snapshots.hash"], name=op.f("fk_versions_snapshot")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_versions")),
        sa.UniqueConstraint(
            "portfolio",
            "definition",
            "snapshot",
            "sibling",
            name=op.f("uq_versions_portfolio_definition_snapshot_sibling"),
        ),
        sa.UniqueConstraint("portfolio", "id", name=op.f("uq_versions_portfolio_id")),
    )
    op.create_index(op.f("ix_versions_id"), "versions", ["id"], unique=False)
    op.create_index(op.f("ix_versions_portfolio_model"), "versions", ["portfolio", "model"], unique=False)
    op.create_table(
        "changes",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("release", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("old", sa.Text(), nullable=True),
        sa.Column("new", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portfolio", "new"], ["versions.portfolio", "versions.id"], name=op.f("fk_changes_portfolio_new")
        ),
        sa.ForeignKeyConstraint(
            ["portfolio", "old"], ["versions.portfolio", "versions.id"], name=op.f("fk_changes_portfolio_old")
        ),
        sa.ForeignKeyConstraint(
            ["portfolio", "stage", "release"],
            ["releases.portfolio", "releases.stage", "releases.number"],
            name=op.f("fk_changes_portfolio_stage_release"),
        ),
        sa.PrimaryKeyConstraint("portfolio", "stage", "release", "model", name=op.f("pk_changes")),
    )
    op.create_index(
        op.f("ix_changes_portfolio_stage_model_release"),
        "changes",
        ["portfolio", "stage", "model", "release"],
        unique=False,
    )
    op.create_table(
        "stages",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portfolio", "stage", "number"],
            ["releases.portfolio", "releases.stage", "releases.number"],
            name=op.f("fk_stages_portfolio_stage_number"),
        ),
        sa.PrimaryKeyConstraint("portfolio", "stage", name=op.f("pk_stages")),
    )
