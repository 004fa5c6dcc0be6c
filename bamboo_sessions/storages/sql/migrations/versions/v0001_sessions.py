"""Sessions, their messages, usage, and the memory of deletions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From nothing."""
    exact = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "bamboo_store",
        sa.Column("namespace", exact, primary_key=True),
        sa.Column("store_id", sa.Text, nullable=False),
    )
    op.create_table(
        "bamboo_session",
        sa.Column("namespace", exact, primary_key=True),
        sa.Column("id", exact, primary_key=True),
        sa.Column("birth", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("op", sa.Text, nullable=False),
        sa.Column("ops", sa.Text, nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("rewrites", sa.BigInteger, nullable=False),
        sa.Column("created_at", exact, nullable=False),
        sa.Column("updated_at", exact, nullable=False),
        sa.Column("activity", sa.BigInteger, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("provider", sa.Text),
        sa.Column("context_id", sa.Text),
        sa.Column("parent_id", sa.Text),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("questions", sa.Integer, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
    )
    op.create_index("bamboo_session_newest", "bamboo_session", ["namespace", "updated_at", "id"])
    op.create_index("bamboo_session_created", "bamboo_session", ["namespace", "created_at", "id"])
    for owner in ("context_id", "parent_id"):
        there = sa.text(f"{owner} IS NOT NULL")
        op.create_index(f"bamboo_session_{owner}", "bamboo_session", ["namespace", owner, "updated_at", "id"],
                        sqlite_where=there, postgresql_where=there)
    for name, in_sqlite, in_postgresql in (("pinned", "pinned = 1", "pinned"), ("questions", "questions > 0", "questions > 0")):
        op.create_index(f"bamboo_session_{name}", "bamboo_session", ["namespace", "updated_at", "id"],
                        sqlite_where=sa.text(in_sqlite), postgresql_where=sa.text(in_postgresql))
    op.create_table(
        "bamboo_message",
        sa.Column("namespace", exact, primary_key=True),
        sa.Column("id", exact, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("line", sa.Text, nullable=False),
    )
    op.create_table(
        "bamboo_usage",
        sa.Column("n", serial, primary_key=True, autoincrement=True),
        sa.Column("namespace", exact, nullable=False),
        sa.Column("id", exact, nullable=False),
        sa.Column("birth", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
    )
    op.create_index("bamboo_usage_of", "bamboo_usage", ["namespace", "id", "n"])
    op.create_table(
        "bamboo_grave",
        sa.Column("n", serial, primary_key=True, autoincrement=True),
        sa.Column("namespace", exact, nullable=False),
        sa.Column("id", exact, nullable=False),
        sa.Column("birth", sa.Text, nullable=False),
        sa.Column("ops", sa.Text, nullable=False),
        sa.Column("expired", sa.SmallInteger, nullable=False),
    )
    op.create_index("bamboo_grave_of", "bamboo_grave", ["namespace", "id", "birth"])
