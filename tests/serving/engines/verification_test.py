"""The comparison of engines notices each kind of difference, and allows rounding."""
import numpy as np
import pytest

from official_ext.serving.engines import inputs
from official_ext.serving.engines import verification

EXPECTED = {
    'decoded_box_scores': np.float32([[[0.5, 0.25]]]),
    'decoded_boxes': np.float32([[[[0, 1, 2, 3]]]]),
    'multiply_adds': np.float32([4e9]),
    'gate_neck_3': np.float32([1]),
    'decoder_3': np.float32([[[[-40.0, 1.0]]]]),
    'gate_head_depth_3': np.linspace(0, 1, 4000, dtype=np.float32).reshape([1, 40, 100, 1]),
}
POSITIONS = 'gate_head_depth_3'


def _compare(**changed):
  actual = {**EXPECTED, **changed}
  found = verification.compare(
      lambda *_: EXPECTED, lambda *_: {k: v for k, v in actual.items() if v is not None},
      [inputs.Call(np.zeros([1, 8, 8, 3], np.uint8))])
  return {name for name, difference in found.items() if not difference.is_allowed}


@pytest.mark.parametrize('side, count, is_allowed', [
    (16, 1, True), (16, 2, False), (2, 1, True), (2, 2, False), (40, 1, True), (40, 2, False)])
def test_one_position_of_a_small_map_may_flip(side, count, is_allowed):
  gate = np.zeros([1, side, side, 1], np.float32)
  flipped = gate.copy()
  flipped.reshape(-1)[:count] = 1e-6
  found = verification.compare(lambda: {POSITIONS: gate}, lambda: {POSITIONS: flipped}, [()])
  assert found[POSITIONS].is_allowed == is_allowed


def _switched(count):
  gates = EXPECTED[POSITIONS].copy()
  gates[0, 1, :count] = 0
  return gates


@pytest.mark.parametrize('changed, wrong', [
    ({}, set()),
    ({'decoded_box_scores': EXPECTED['decoded_box_scores'] + 5e-4}, set()),
    ({'decoded_box_scores': EXPECTED['decoded_box_scores'] + 2e-3}, {'decoded_box_scores'}),
    ({'decoded_boxes': EXPECTED['decoded_boxes'] + 0.02}, set()),
    ({'decoded_boxes': EXPECTED['decoded_boxes'] + 0.1}, {'decoded_boxes'}),
    ({'decoded_boxes': EXPECTED['decoded_boxes'] * np.float32('nan')}, {'decoded_boxes'}),
    ({'decoded_boxes': EXPECTED['decoded_boxes'][:, :, 0]}, {'decoded_boxes'}),
    ({'decoder_3': EXPECTED['decoder_3'] + 3e-3}, set()),
    ({'decoder_3': EXPECTED['decoder_3'] + 5e-3}, {'decoder_3'}),
    ({'gate_neck_3': np.float32([0])}, {'gate_neck_3'}),
    ({'gate_neck_3': None}, {'gate_neck_3'}),
    ({'multiply_adds': np.float32([4e9 + 8192])}, {'multiply_adds'}),
    # A gate of a position may flip, and the cost with it, but not many.
    ({POSITIONS: _switched(3), 'multiply_adds': np.float32([4.004e9])}, set()),
    ({POSITIONS: _switched(3), 'multiply_adds': np.float32([4.1e9])}, {'multiply_adds'}),
    ({POSITIONS: _switched(9)}, {POSITIONS}),
])
def test_differences(changed, wrong):
  assert _compare(**changed) == wrong


@pytest.mark.parametrize('boxes, expected', [
    (EXPECTED['decoded_boxes'] + 9, True), (EXPECTED['decoded_boxes'] * np.nan, False),
    (EXPECTED['decoded_boxes'][0], False)])
def test_rounded_weights_may_change_numbers_but_nothing_else(boxes, expected):
  actual = {**EXPECTED, 'decoded_boxes': boxes}
  found = verification.compare(lambda: EXPECTED, lambda: actual, [()])
  assert found['decoded_boxes'].is_number == expected


def test_the_largest_of_several_batches_counts():
  offsets = iter([0, 2e-3, 0])
  found = verification.compare(
      lambda *_: {'detection_scores': np.zeros([1])},
      lambda *_: {'detection_scores': np.full([1], next(offsets))}, [()] * 3)
  assert found['detection_scores'].value == pytest.approx(2e-3)


def test_detections_may_change_places():
  wanted = {'detection_boxes': np.float32([[[0, 0, 9, 9], [5, 5, 7, 7]]]),
            'detection_scores': np.float32([[0.5, 0.5]]), 'detection_classes': np.int32([[1, 2]])}
  got = {name: value[:, ::-1] for name, value in wanted.items()}
  moved = {**got, 'detection_boxes': got['detection_boxes'] + np.float32(1)}
  for outputs, exchanged in ((got, 0), (moved, 1)):
    found = verification.compare(lambda: wanted, lambda found=outputs: found, [()])
    # As many detections as there may be, of one score: others may have been left out.
    assert found['exchanged_detections'].value == exchanged
    assert found['exchanged_detections'].is_allowed == (not exchanged)


@pytest.mark.parametrize('change, wrong', [
    (lambda masks: masks + np.float32(0.001), False), (lambda masks: masks[:, ::-1], True),
    (lambda masks: masks * np.float32('nan'), True), (None, True)])
def test_masks_are_those_of_their_detections(change, wrong):
  wanted = {'detection_boxes': np.float32([[[0, 0, 9, 9], [5, 5, 7, 7]]]),
            'detection_scores': np.float32([[0.75, 0.5]]), 'detection_classes': np.int32([[1, 2]]),
            'detection_masks': np.random.default_rng(0).random([1, 2, 4, 4], np.float32)}
  got = {**wanted, 'detection_masks': change and change(wanted['detection_masks'])}
  got = {name: value for name, value in got.items() if value is not None}
  found = verification.compare(lambda: wanted, lambda: got, [()])
  assert {name for name, difference in found.items() if not difference.is_allowed} == (
      {'detection_masks'} if wrong else set())


@pytest.mark.parametrize('number, is_allowed', [(2, True), (1, False), (None, False)])
def test_the_number_of_detections_is_that_of_the_boxes(number, is_allowed):
  wanted = {'detection_boxes': np.float32([[[0, 0, 9, 9], [5, 5, 7, 7], [0, 0, 0, 0]]]),
            'detection_scores': np.float32([[0.75, 0.5, 0]]),
            'detection_classes': np.int32([[1, 2, 1]]), 'num_detections': np.int32([2])}
  got = {**wanted, 'num_detections': np.int32([number])} if number else {
      name: value for name, value in wanted.items() if name != 'num_detections'}
  found = verification.compare(lambda: wanted, lambda: got, [()])
  assert found['num_detections'].is_allowed == is_allowed
