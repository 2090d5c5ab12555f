"""Publications: artifacts of trainings that ran elsewhere.

A migration is frozen once released: it repeats what `tables` said then, and never imports it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the schema with clients."""
    op.create_table(
        "publications",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("portfolio", "model", "digest", "format", "claimed", "why", "who", "created")
        ),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_publications")),
    )
    op.create_index(op.f("ix_publications_portfolio_model"), "publications", ["portfolio", "model"])
