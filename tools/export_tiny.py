from pathlib import Path
TINY = Path(__file__).resolve().parents[1] / "tgi_stack" / "tiny"
