"""GPU kernels of our own, and who chooses among them."""
