"""Records of whole rows as they are kept: a row that comes again to the byte is not put together again.

Answers are kept by their prompts, and serve a row that was changed elsewhere, other labels and other jobs. To
make a record of one takes a prompt for its key, each candidate's place and 3 kB of JSON. Where nothing at all
has changed that record is there already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
import zstandard

from cache.errors import CacheError
from cache.keys import Keys
from cache.store import Store
from tgi_stack import __version__
from tgi_stack.answers.checks import refuse, text, texts
from tgi_stack.answers.kept import Kept
from tgi_stack.answers.tables import STOOD_IN
from tgi_stack.declared.option import declared
from tgi_stack.declared.run import Fields
from tgi_stack.prompting import prompts
from tgi_stack.rows import jsonl
from tgi_stack.rows.reader import Line, RawRow
from tgi_stack.rows.records import RECORDS, Written, described, written

FROM_CACHE = {"from_cache": True, "attempts": 0}  # what tells a record of the cache from a new one
WHITESPACE = b" \t\r\n"  # of JSON: a line with any other around it is malformed
LOW_MASS = "label_mass.low"
LISTS = ("ranking", "reads", "labels", "probabilities", "logprobs")  # of records that have them
OF_ANSWERS = tuple(name for name, one in declared(Fields).items() if one.option.changes_answers)


class KeptRows:
    """The records of one job's rows of JSON lines, of text alone: what a picture holds no row tells.

    Args:
        told: what the run tells a process about the job; see `asked_of`.
    """

    def __init__(self, store: Store, told: dict[str, Any]) -> None:
        self._keys = Keys("record", {"asked": asked_of(told)}, told["identity"]["revision"])
        self._kept: Kept[Written] = Kept(store, "record", RecordCodec())
        self._keeps = store.keeps  # offline nothing is: no record has to be written for it
        self._fallback = told["settings"]["fallback"]
        self._calibrates = told["name"] == "rerank" and told["settings"]["calibrate"]
        self._asks_spaced = told["name"] == "probs"
        self._replaced = told["replaced"]

    @staticmethod
    def of(store: Store | None, told: dict[str, Any]) -> KeptRows | None:
        """Those of a job; None where there is no cache, or rows name pictures, which lie in other files."""
        if store is None or told["name"] == "summarize" or told["settings"]["item_images"]:
            return None
        return KeptRows(store, told)

    def known(self, lines: Sequence[Line]) -> list[Written | None]:
        """The records that are kept of rows; None where there is none, or it can't be read now."""
        try:
            return self._kept.known_of([self._key(line) for line in lines])
        except CacheError:  # offline; whether that is the end of the run is told where an answer is looked up
            return [None] * len(lines)

    def keep(self, line: Line, raw: RawRow, record: dict[str, Any]) -> None:
        """Keeps a row's record as it will come from the cache.

        One that failed is not kept, nor one whose id is its row's number, nor one that may come otherwise or
        is longer than what is read.
        """
        if not self._keeps:
            return
        names_itself = isinstance(raw.value, dict) and "id" in raw.value
        if record["status"] == "ok" and names_itself and self._comes_again(record):
            found = written(record | FROM_CACHE)
            if len(found.line) <= jsonl.MAX_LINE_BYTES:
                self._kept.keep(self._key(line), found)

    def _comes_again(self, record: dict[str, Any]) -> bool:
        """Whether the cache's answers make this very record.

        Bounds are asked again unless they are asked for. Who answers in a server's place may change. That may
        be so of answers that a record does not show, too: those without content, by which it is calibrated,
        and those of labels with a space before, whose failure fails no row.
        """
        flags = record["flags"]
        if STOOD_IN in flags or not (record["exact"] or self._fallback == "bounds"):
            return False
        if not self._replaced:
            return True
        if self._asks_spaced:
            return LOW_MASS not in flags
        return not self._calibrates or self._fallback in ("bounds", "fail")

    def _key(self, line: Line) -> str:
        return self._keys.key(row=line.content.strip(WHITESPACE))


class RecordCodec:
    """Writes records as compressed JSON."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, value: Written) -> bytes:
        return self._compressor.compress(value.line)

    def decode(self, payload: bytes) -> Written:
        """See `Codec`: a record of the cache, written as we write it."""
        try:
            size = zstandard.frame_content_size(payload)
            refuse(not 0 < size <= jsonl.MAX_LINE_BYTES, "the size of the record")
            line = self._decompressor.decompress(payload)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        record = orjson.loads(line)
        refuse(type(record) is not dict or record["status"] != "ok", "the record")
        refuse(record["from_cache"] is not True or record["attempts"] != 0, "where it came from")
        refuse(written(record).line != line, "its line")  # a key twice, other spaces, others that follow
        text(record["id"], "its id")
        texts(record["flags"], "its flags")
        refuse(not all(type(record[name]) is list for name in LISTS if name in record), "a list in it")
        refuse(type(record.get("usage", {})) is not dict, "what it cost")
        refuse(not all(_is_read(read) for read in record.get("reads", [])), "a reading in it")
        return Written(record, line)


def _is_read(read: Any) -> bool:
    """Whether a reading's probabilities can be told: means over positions are made of them."""
    if type(read) is not dict:
        return False
    order, logprobs = read.get("order"), read.get("logprobs")
    if type(order) is not list or type(logprobs) is not list:
        return False
    return len(order) > 0 and set(map(type, logprobs)) == {float}


def asked_of(told: dict[str, Any]) -> str:
    """All that a record depends on but its row: what decides whether a run goes on with an output, who
    answers, how prompts are written, and what records hold.
    """
    settings = {name: told["settings"][name] for name in OF_ANSWERS}
    settings["prompt_file"] = settings["schema"] = None  # what stands in them is told
    names = ("name", "template", "form", "columns", "items", "identity", "profile", "takes_tokens")
    asked = {name: told[name] for name in names} | {"settings": settings, "prompts": prompts.VERSION}
    asked |= {"fastqwen": __version__, "record": described(RECORDS[told["name"]])}
    return json.dumps(asked, sort_keys=True)
