"""Rows laid out in shared memory: where each lies, when a region is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.buffers import ALIGNMENT, Region, StepBuffers

LATENTS, TEXT = (4, 8, 8), (2, 7, 5)


@pytest.fixture
def buffers() -> StepBuffers:
    return StepBuffers()


@pytest.mark.parametrize("masked", [False, True])
def test_tensors_lie_apart_and_aligned(buffers: StepBuffers, masked: bool) -> None:
    rows = buffers.rows(3, LATENTS, TEXT, masked)
    tensors = rows.inputs | rows.outputs
    for number, array in enumerate(tensors.values()):
        array[...] = number
    for number, (name, array) in enumerate(tensors.items()):
        assert (array == number).all(), name
        assert rows.offsets[name] % ALIGNMENT == 0
        raw = np.frombuffer(rows.region.memory, np.float32, array.size, rows.offsets[name])
        np.testing.assert_array_equal(raw, array.ravel())
    buffers.abandon()


def test_the_call_names_each_tensors_place(buffers: StepBuffers) -> None:
    rows = buffers.rows(2, LATENTS, TEXT)
    request = rows.request("toy")
    assert request is rows.request("toy")
    assert not request.raw_input_contents
    for tensor in [*request.inputs, *request.outputs]:
        array = (rows.inputs | rows.outputs)[tensor.name]
        told = tensor.parameters
        assert told["shared_memory_region"].string_param == rows.region.name
        assert told["shared_memory_offset"].int64_param == rows.offsets[tensor.name]
        assert told["shared_memory_byte_size"].int64_param == array.nbytes
    buffers.abandon()


def test_only_who_sees_masks_has_room_for_them(buffers: StepBuffers) -> None:
    plain = buffers.rows(2, LATENTS, TEXT)
    masked = buffers.rows(2, LATENTS, TEXT, masked=True)
    assert masked.region is plain.region
    assert masked.mask is not None and masked.mask.shape == (2, 1, 8, 8)
    assert masked.known is not None and masked.known.shape == (2, *LATENTS)
    assert set(masked.inputs) - set(plain.inputs) == {"mask", "known"}
    names = [tensor.name for tensor in masked.request("toy").inputs]
    assert sorted(names) == sorted(masked.inputs)
    assert buffers.rows(2, LATENTS, TEXT).inputs.keys() == plain.inputs.keys()
    buffers.abandon()


def test_a_region_stays_while_it_is_large_enough(buffers: StepBuffers) -> None:
    rows = buffers.rows(8, LATENTS, TEXT)
    rows.region.registered = True
    assert buffers.rows(8, LATENTS, TEXT) is rows
    assert buffers.rows(1, LATENTS, TEXT).region is rows.region
    assert buffers.rows(19, LATENTS, TEXT).region is not rows.region
    assert buffers.outgrown == [rows.region]
    buffers.abandon()


def test_where_a_call_may_be_at_work_nothing_is_written(buffers: StepBuffers) -> None:
    rows = buffers.rows(1, LATENTS, TEXT)
    rows.region.registered = rows.region.busy = True
    assert buffers.rows(1, LATENTS, TEXT).region is not rows.region
    assert buffers.outgrown == []  # nor is it unregistered
    buffers.abandon()


def test_no_name_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.buffers.SHARED_MEMORY", tmp_path)
    region = Region.create(100)
    assert (tmp_path / region.name).stat().st_size == 100
    region.unlink()
    region.unlink()
    with pytest.raises(OSError, match=r"large|space"):
        Region.create(1 << 62)
    assert list(tmp_path.iterdir()) == []
