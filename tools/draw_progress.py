"""What a terminal shows of a run against two servers on loopback, as a picture for the documents.

    python tools/draw_progress.py docs/pictures/progress.svg

The screen in the middle of the run stands above the one at its end. The picture brings its own paper, light
or dark as the reader's system is.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from terminal import played

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.loopback import serve  # noqa: E402

FASTQWEN = Path(sys.executable).with_name("fastqwen")
COLUMNS = 104
WIDE, TALL, EDGE = 7.85, 18, 14  # pixels of a character, of a line, around all
STYLE = """
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; white-space: pre }
rect { fill: #f4f2ec } text { fill: #1d2127 }
.typed { font-weight: bold }
@media (prefers-color-scheme: dark) { rect { fill: #1c2026 } text { fill: #e8e6e1 } }
"""


def screens(folder: Path, rows: int) -> tuple[list[str], list[str], list[str]]:
    """What was typed, the screen when most rows are done, and the last one."""
    prompts = [{"id": f"p{n}", "prompt": f"Prompt {n}?\n", "labels": ["A", "B"]} for n in range(rows)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    known = {name: value for name, value in os.environ.items() if not name.startswith("FASTQWEN_")}
    with serve("vllm", delay_s=0.15) as one, serve("vllm", delay_s=0.25) as two:
        typed = [
            "probs",
            "p.jsonl",
            "-o",
            "out.jsonl",
            "--tokenizer",
            "tiny",
            "--concurrency",
            "24",
            "--llm-batch-size",
            "1",
        ]
        typed += ["--endpoint", one.url, "--endpoint", two.url]
        environment = known | {"FASTQWEN_NO_CACHE": "1"}
        seen = played([FASTQWEN, *typed], environment, folder, columns=COLUMNS)
    going = [one for one in seen if sum(line.startswith("  http://") for line in one) == 2]
    going = [one for one in going if any(line.rstrip().endswith(" left") for line in one)]
    line, more = " ".join(typed[:10]), " ".join(typed[10:])
    return [f"$ fastqwen {line} \\", f"    {more}"], going[2 * len(going) // 3], seen[-1]


def drawn(typed: Sequence[str], *shown: Sequence[str]) -> str:
    """The picture, as SVG; each screen stands below an empty line."""
    lines = [*((line, "typed") for line in typed)]
    for screen in shown:
        lines += [("", ""), *((line.rstrip(), "") for line in screen if line.strip())]
    width, height = round(COLUMNS * WIDE + 2 * EDGE), len(lines) * TALL + 2 * EDGE
    box = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height), "role": "img"}
    svg = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **box})
    ElementTree.SubElement(svg, "title").text = "A run on a terminal, while it goes and at its end"
    ElementTree.SubElement(svg, "style").text = STYLE
    ElementTree.SubElement(svg, "rect", {"width": str(width), "height": str(height), "rx": "10"})
    for number, (line, kind) in enumerate(lines):
        at = {"x": str(EDGE), "y": str(EDGE + number * TALL + 13), "xml:space": "preserve"}
        ElementTree.SubElement(svg, "text", at | ({"class": kind} if kind else {})).text = line
    ElementTree.indent(svg, "")
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = screens(Path(folder), 600)
    Path(sys.argv[1]).write_text(drawn(*found), encoding="utf-8")


if __name__ == "__main__":
    main()
