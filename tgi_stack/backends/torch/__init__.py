"""The torch engine as a backend."""
