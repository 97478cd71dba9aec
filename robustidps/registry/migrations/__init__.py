"""Revisions of the state store's tables, applied by `state.StateStore` when it opens a database."""
