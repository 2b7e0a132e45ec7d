"""The words that records, messages and the environment use, each with its meaning."""

from __future__ import annotations

EXIT_STATUSES = {
    "0": "all is well",
    "1": "finished, and some rows failed, or what was looked at is not as it should be",
    "2": "the command, the settings or an input can't be used as they are",
    "3": "this machine: a disk, a permission, a missing package",
    "4": "servers: none answers, a wrong model, a refused key",
    "129, 130, 143": "interrupted (SIGHUP, SIGINT, SIGTERM); the same command goes on",
    "141": "the reader of standard output went away",
}

# What a failed row's `error.type` is.
ERRORS = {
    "image.aspect": "an image that is far longer than wide, or wider than long",
    "image.corrupt": "an image whose content is broken",
    "image.crashed": "the process that decoded it ended",
    "image.empty": "a file of no bytes",
    "image.missing": "no such file, or a row that names none",
    "image.not_a_file": "a folder, a device, a pipe",
    "image.timeout": "decoding took too long",
    "image.too_large": "more bytes or pixels than are read",
    "image.truncated": "it ends early (`--allow-truncated` takes JPEGs)",
    "image.unreadable": "the file can't be read",
    "image.unrecognised": "no known image format",
    "image.unsupported": "an image format, or a kind of one, that is not read",
    "image.url": "a URL; images are files",
    "input.malformed": "a line or a row that can't be parsed",
    "item.empty": "an item with none of the fields of `--item-fields`",
    "item.invalid": "no item: neither an id nor an object with one",
    "item.unknown": "an id that is in no `--items` file",
    "label.duplicate": "a label that stands twice",
    "label.merges": "a label that is one token with the prompt's end",
    "label.none": "no label, or no candidate to label",
    "label.not_one_token": "a label of several tokens where one is needed",
    "label.prefix": "a label that another one begins with",
    "label.too_many": "more candidates than there are labels",
    "offline.miss": "an answer that is not in the cache, with `--offline`",
    "schema.invalid": "an answer that is none of `--schema`",
    "schema.truncated": "an answer of `--schema` that was cut off at `--max-new-tokens`",
    "schema.candidates": "`candidates` is missing, empty or no array, or one stands twice",
    "schema.history": "neither `history` nor `query`, or both, or no array",
    "schema.id": "`id` is missing, or neither a string nor an integer",
    "schema.image": "`image` is neither a path nor, in Parquet, bytes",
    "schema.labels": "no labels, or labels that are no strings",
    "schema.num_candidates": "`num_candidates` is no number of at least 1",
    "schema.positive": "`positive` is neither an id nor an array of ids",
    "schema.prompt": "`prompt` is missing or no string",
    "schema.query": "`query` is no string",
    "schema.summary": "`summary` is no string",
    "schema.text": "`text` is no string",
    "schema.title": "`title` is no string",
    "score.inexact": "no exact answer, with `--fallback fail`",
    "score.mixed": "the server shows some tokens of the labels and not others",
    "score.not_finite": "the network gives no finite numbers",
    "score.unseen": "no label is among the tokens that the server shows",
    "server.bad_response": "an answer that is not what was asked for, each time",
    "server.broken": "an answer that ended in the middle, each time",
    "server.deadline": "no answer in time",
    "server.failed": "the servers could not answer, each time",
    "server.foreign_response": "the answer to another request, each time",
    "server.large": "an answer of more bytes than are read",
    "server.mismatch": "the server counts other tokens than the checkpoint here: another tokenizer, template "
    "or limits of images",
    "server.poison": "a row that the server dies of",
    "server.refused": "the server refuses the row",
    "server.silent": "a connection that ended without an answer, each time",
    "server.slow": "no whole answer in time, each time",
    "text.control_token": "a control token of the model that could not be made harmless",
    "text.empty": "an empty prompt",
    "text.image_marks": "marks of images, and other images or none come with them",
    "text.invalid_unicode": "no Unicode text",
    "text.too_long": "more tokens than the model takes",
}

# What a reader of an answer must know: a record's `flags`.
FLAGS = {
    "empty": "the summary is empty",
    "fallback.torch": "torch computed it in the server's place",
    "finish.length": "the summary was cut off at `--max-new-tokens`",
    "image.coarse": "a progressive JPEG lacks the scans that would have refined it",
    "image.frames": "of a moving picture the first frame was seen",
    "image.profile": "a colour profile that can't be used was left out",
    "image.truncated": "the image ends early, and what is there was seen",
    "label.merges": "a label was read as its own token where it merges with the prompt's end",
    "label_mass.low": "the labels hold little of the probability: the model would rather say something else",
    "labels.bounded": "some labels are not shown; a bound stands for each",
    "labels.spaced_likelier": "with a space before them the labels are likelier",
    "repetition": "the summary runs in a circle",
    "resolution.bf16": "labels tie because the server's numbers are bf16",
    "resolution.fp16": "labels tie because the server's numbers are fp16",
    "thinking": "what the model thought (`<think>`) stands in the summary",
    "thinking.closed": "a label was read behind a closed thinking block, by a model that always thinks: "
    "prefer its Instruct model",
    "text.surrogate": "a character that is no text was replaced",
    "text.truncated": "the oldest history, or the end of a text, was left out",
}

# How an answer was obtained: a record's `route`.
ROUTES = {
    "chat": "a summary by a chat completion",
    "generate": "a summary of a rendered prompt",
    "sglang.generate": "SGLang, asked for the labels' own logarithms after one prompt, with its images",
    "sglang.score": "SGLang, asked for the labels' own logarithms after several prompts",
    "tgi.grammar": "TGI, held to the labels by a grammar",
    "tgi.grammar.groups": "the same, in groups of labels that share one",
    "tgi.top_n": "TGI's likeliest tokens",
    "torch": "computed in this process",
    "vllm.logprob_token_ids": "vLLM, asked for the labels' own logarithms",
    "vllm.top_logprobs": "vLLM's likeliest tokens",
}

# Variables beside those of the settings.
VARIABLES = {
    "FASTQWEN_ADOPT_KEY": "the key that servers of `make up ADOPT=URL` want",
    "FASTQWEN_API_KEY": "the key that servers want",
    "FASTQWEN_CACHE_GROUP": "`1` where a team shares the cache folder",
    "FASTQWEN_CACHE_KEY_FILE": "a key file that seals bundles of `cache export`",
    "FASTQWEN_CACHE_TIER_USER_FILE": "a file with `user:password`, or a password alone, for the cache's tier",
    "HTTPS_PROXY": "with `--proxy env`: the proxy to servers of https; as `https_proxy`, too",
    "HTTP_PROXY": "the same for http",
    "NO_PROXY": "with `--proxy env`: hosts that need none",
    "HF_TOKEN": "the hub's key, for models that want one",
    "XDG_CACHE_HOME": "where the user's cache folder is",
    "XDG_STATE_HOME": "where the records of an OUT in a store are kept until it is whole",
    "TERM": "unset, `dumb` or `unknown`: plain lines instead of a bar and of tables",
    "COLUMNS": "a width under that of the terminal, for the bar",
}

# What stands in `OUT.run.json`.
NOTED = {
    "command": "what was typed, without secrets",
    "fastqwen": "its version",
    "state": "`running`, `interrupted` or `complete`",
    "asked": "all that answers depend on but who gives them: settings, and SHA-256 of what was read",
    "identity": "who answered: engine, model, revision, quantisation, dtype, tokenizer, version",
    "started": "when the first of its runs began",
    "checked": "how many rows the input has, and whether a bad one was refused before the first request",
    "input": "where the input can be read again (`-`: nowhere), and its names of columns",
    "items": "the same of each `--items`",
    "prompt_file": "where the prompt file is",
    "counts": "what became of the rows; `kept` are those of earlier runs",
    "timeline": "counts as the last run went on, at most 240 points: `fields` names the numbers of each",
    "times": "where the time of the last run's rows went, in seconds summed over all rows: `preparing` "
    "(reading, prompts, pictures, the cache), `waiting` (for a place at a server or in the engine), "
    "`computing` (there), `writing` (records)",
    "ended": "when the last run ended",
    "out": "SHA-256 and size of a complete OUT",
}
