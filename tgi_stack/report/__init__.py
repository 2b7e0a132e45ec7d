"""One file to look at: what stands in one output or in two, as a page that opens from the disk."""
