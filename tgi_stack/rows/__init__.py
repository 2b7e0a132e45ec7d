"""Rows in (`reader`, `schema`), records out (`ledger`)."""
