"""Clients and their keys.

A migration is frozen once released: it repeats what `tables` said then, and never imports it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the first schema."""
    op.create_table(
        "clients",
        sa.Column("portfolio", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("portfolio", "name", name=op.f("pk_clients")),
    )
