"""Servers as a backend."""
