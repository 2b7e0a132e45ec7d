"""How far outputs of the same rows are apart: `fastqwen compare`."""
