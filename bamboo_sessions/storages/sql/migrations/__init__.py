"""The steps that make the tables, one file a version, run by Alembic. A step that was released never changes."""
