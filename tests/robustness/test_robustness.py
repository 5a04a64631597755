"""Short versions of ``make fuzz`` and ``make soak``; the corpus; and structures made up by hypothesis."""

from __future__ import annotations

import ismrmrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gadgets import protocol
from gadgets.protocol import Message, MessageId
from gadgets.protocol.bytes import PeerLost
from pass_recon.types import PassError
from tests.robustness import fuzz, soak
from tests.robustness.faults import KINDS
from tests.robustness.targets import TARGETS, corpus, read_stream

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
SAVED = sorted(path for path in fuzz.CORPUS.iterdir() if path.name != "README")


@pytest.mark.parametrize("name", list(TARGETS))
def test_good_inputs_are_read(name):
    for good in corpus()[name]:
        if name == "name":
            with pytest.raises(PassError):
                TARGETS[name](good)
        elif name == "messages":
            with pytest.raises(PeerLost, match="the end"):
                TARGETS[name](good)
        else:
            TARGETS[name](good)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_what_was_found_once_is_never_found_again(path):
    assert not fuzz.outcome(path.name.partition("-")[0], path.read_bytes())


def test_spoilt_inputs_are_taken_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    table = fuzz.fuzz(4000, seed=1)
    assert all(counts["lost"] == counts["silent"] == 0 for counts in table.values()), fuzz.show(table)


def test_the_fuzzer_finds_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setitem(TARGETS, "size", lambda data: data.decode("ascii"))
    assert fuzz.fuzz(800, seed=1)["size"]["lost"] > 0
    assert list(tmp_path.iterdir())


@QUICK
@given(
    st.integers(1, 8), st.integers(0, 64), st.integers(0, 3), st.integers(0, 65535), st.floats(width=32, allow_nan=True)
)
def test_acquisitions_of_every_shape_arrive_as_they_were(coils, samples, dimensions, step, value):
    data = np.full((coils, samples), value, np.complex64)
    line = ismrmrd.Acquisition.from_array(data, np.zeros((samples, dimensions), np.float32))
    line.idx.kspace_encode_step_1 = step
    frame = protocol.encode(line)
    read = Message(MessageId.ACQUISITION, frame[2:]).item
    np.testing.assert_array_equal(read.data, data)
    assert read.idx.kspace_encode_step_1 == step


@QUICK
@given(st.lists(st.tuples(st.sampled_from(sorted(MessageId)), st.binary(max_size=400)), max_size=5))
def test_any_bytes_behind_any_id_are_taken_or_refused(messages):
    stream = b"".join(int(identifier).to_bytes(2, "little") + body for identifier, body in messages)
    with pytest.raises((PassError, PeerLost)):
        read_stream(stream)


@QUICK
@given(st.recursive(st.text(max_size=20), lambda inner: st.dictionaries(st.text(max_size=20), inner, max_size=4)))
def test_any_json_is_taken_or_refused(value):
    import json

    assert not fuzz.outcome("parameters", json.dumps({"parameters": value}).encode())


@pytest.mark.timeout(900)  # nothing but how long a very busy machine may take
def test_scans_while_everything_goes_wrong():
    """Each fault once, but those that have tests of their own and cost many starts; nothing lost, silent or leaked."""
    kinds = [kind for kind in KINDS if kind not in ("gadget killed", "client killed")]
    table = soak.soak(len(kinds), seed=3, kinds=kinds)
    assert not any(counts[fault] for counts in table.values() for fault in ("lost", "silent", "leaked")), fuzz.show(
        table
    )
