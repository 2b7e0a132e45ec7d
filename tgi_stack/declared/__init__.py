"""What is said of each option, once: nothing here costs `--help` its start."""
