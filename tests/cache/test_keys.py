"""Keys, kinds and envelopes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import DamagedError
from cache.keys import Keys
from cache.kinds import Kind, register
from cache.storage import codecs
from tgi_stack.answers.kinds import KINDS

NUMBERS = st.one_of(st.integers(), st.booleans(), st.none(), st.floats())


PARTS = st.one_of(st.text(max_size=5), st.binary(max_size=5), NUMBERS)


@given(st.dictionaries(st.text(min_size=1, max_size=3), PARTS, max_size=4), st.data())
def test_a_key_is_of_its_parts_alone(parts: dict[str, Any], data: st.DataObject) -> None:
    keys = Keys("labels", {"shared": 1})
    shuffled = dict(random.Random(0).sample(list(parts.items()), len(parts)))
    assert keys.key(**parts) == keys.key(**shuffled)
    assert keys.key(**parts) != Keys("labels", {"shared": 2}).key(**parts)
    assert keys.key(**parts) != Keys("summary", {"shared": 1}).key(**parts)
    assert keys.key(**parts) != keys.key(**parts, another=None)
    if parts:
        name = data.draw(st.sampled_from(sorted(parts)))
        other = data.draw(PARTS.filter(lambda value: not same(value, parts[name])))
        assert keys.key(**parts) != keys.key(**parts | {name: other})


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b)) and repr(a) == repr(b)


def test_keys_do_not_depend_on_the_process() -> None:  # C12
    code = "from cache.keys import Keys; print(Keys('labels', {'a': 1}).key(b='x', c=None))"
    keys = set()
    for seed in ("0", "1"):
        for flag in ("-O", "-B"):
            run = [sys.executable, flag, "-c", code]
            done = subprocess.run(
                run, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            )
            keys.add(done.stdout)
    assert len(keys) == 1


@given(st.binary(max_size=300), st.data())
def test_a_changed_envelope_is_no_value(payload: bytes, data: st.DataObject) -> None:  # K02
    blob = codecs.seal("L", payload)
    assert codecs.unseal("L", blob) == payload
    place = data.draw(st.integers(0, len(blob) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = blob[:place] + bytes([blob[place] ^ 1 << bit]) + blob[place + 1 :]
    for wrong in (changed, blob[:place], blob + b"x", b"", None, "text"):
        with pytest.raises(DamagedError):
            codecs.unseal("L", wrong)
    with pytest.raises(DamagedError):
        codecs.unseal("S", blob)


def test_each_kind_has_a_letter_of_its_own() -> None:
    with pytest.raises(ValueError, match="another kind"):
        register(Kind("another", "L"))
    with pytest.raises(ValueError, match="another kind"):
        register(Kind("labels", "X"))
    register(*KINDS)
