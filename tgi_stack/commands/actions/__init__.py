"""What commands do: imported when one is called, not for its `--help`."""
