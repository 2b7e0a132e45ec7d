"""Bytes on disk: databases, whole files, what is damaged."""
