"""Alembic's entry: runs the numbered versions inside the transaction that `registry_open` began."""

from alembic import context

from retinue.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
