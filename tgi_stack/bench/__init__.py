"""What is measured, and how: shared by `fastqwen bench` and by the scripts of `benchmarks/`."""
