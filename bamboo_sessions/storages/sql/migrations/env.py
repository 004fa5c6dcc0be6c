"""What Alembic runs: the steps, on the connection that `upgrading` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from bamboo_sessions.storages.sql.schema import VERSION_TABLE, metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE)
context.run_migrations()
