"""Signatures of an export answer for no images as for any other number."""
import pytest
import tensorflow as tf

from official_ext.serving import export_modules
from official_ext.serving import export_saved_model
from official_ext.serving import input_types
from official_ext.serving import signatures
from official_ext.serving.compiling import frozen
import budget_detector
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
FASTER = 'fasterrcnn_fpn_efficientnetlite0_sample'


def _module(kind):
  if kind == 'dyfpn':
    return budget_detector.module()
  if kind == 'two_stages':
    return mixed_detector.build(FASTER, (64, 64))[2]
  return mixed_detector.build('fcos_dynamichead_efficientnetlite0_sample',
                              detection_generator={'apply_nms': False})[2]


def _check(found, expected):
  assert found.keys() == expected.keys()
  for name, value in found.items():
    assert value.dtype == expected[name].dtype, name
    assert value.shape == (0, *expected[name].shape[1:]), name


@pytest.mark.parametrize('kind, input_type', [
    ('dyfpn', 'image_tensor'), ('dyfpn', 'image_bytes'), ('dynamic_head', 'tf_example'),
    ('dynamic_head', 'image_tensor'), ('two_stages', 'image_tensor')])
def test_no_images_have_no_detections(tmp_path, kind, input_type):
  module = _module(kind)
  network = signatures.network_function(module, input_type)
  export_saved_model.save(module, tmp_path, input_type, (64, 64), None, network=network,
                          freeze=lambda: frozen.freeze(network)[0])
  saved = tf.saved_model.load(str(tmp_path))
  images = input_types.encode(mixed_detector.images(1), input_type)
  assert {*saved.signatures} >= {signatures.DEFAULT}
  for name, function in saved.signatures.items():
    more = name.removeprefix('with_')
    values = {} if name == signatures.DEFAULT else {more: tf.constant(0.5)}
    expected = function(inputs=images, **values)
    _check(function(inputs=images[:0], **values), expected)
    if more == 'budget':
      _check(function(inputs=images[:0], budget=tf.zeros([0])), expected)


def test_several_canvases_answer_for_no_images():
  options = {'resize': {'rule': 'paper', 'short_side': 48, 'long_side': 64},
             'model': {'input_size': [None, None, 3]}}
  _, model = small_detectors.small_task(DYFPN, **options)
  module = export_modules.make_module(small_detectors.small_experiment(DYFPN, **options), model)
  network = signatures.network_function(module, 'image_tensor')
  images = tf.constant(mixed_detector.images(1))
  expected = signatures.call(network, images)
  _check(signatures.call(network, images[:0]), expected)
