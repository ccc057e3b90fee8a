"""Exports that are converted for other engines answer as their SavedModels do."""
import json
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.ops import routing
from official_ext.ops import suppression
from official_ext.serving import convert
from official_ext.serving import converted_detectors
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.serving.engines import catalog
from official_ext.utils import command_line
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
DYNAMIC_HEAD = 'fcos_dynamichead_efficientnetlite0_sample'
IFPN = 'retinanet_ifpn_efficientnetlite0_sample'
RAW = {'detection_generator': {'apply_nms': False}}


class Exported:
  """A DyFPN whose gates differ between images, exported without suppression."""

  def __init__(self, folder):
    self.path = folder
    _, _, self.module = mixed_detector.build(DYFPN, **RAW)
    export_saved_model.save(self.module, folder, 'image_tensor', self.module.image_size)
    (folder / 'export.json').write_text(json.dumps(self.module.description), encoding='utf-8')

  @property
  def detector(self):
    return detectors.SavedDetector(self.path)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  return Exported(tmp_path_factory.mktemp('exported'))


def _convert(name, exported, folder):
  convert.main([f'--to={name}', f'--saved_model={exported.path}', f'--output_dir={folder}'])
  return json.loads((folder / 'conversion.json').read_text(encoding='utf-8'))


@pytest.mark.parametrize('name', catalog.NAMES)
def test_answers_as_the_model_in_memory(exported, tmp_path, name):
  engine = catalog.engine(name) if _is_installed(name) else pytest.skip(f'no {name}')
  report = _convert(name, exported, tmp_path / 'converted')
  # Three levels, each with a conditional in a conditional: some images, or all.
  assert report['conditionals'] == report['conditionals_of_saved_model'] == 6
  # OpenVINO's telemetry sends events as soon as it is imported.
  assert 'openvino_telemetry' not in sys.modules
  model = engine.Model(tmp_path / 'converted', num_threads=1)
  images = mixed_detector.images()
  expected = {key: value.numpy()
              for key, value in exported.module.serve(tf.constant(images)).items()}
  assert all(set(expected[f'gate_dyfpn_{level}']) == {0, 1} for level in (3, 4, 5))
  for batch in (slice(0, 4), slice(1, 2), slice(2, 4)):
    outputs = model(images[batch])
    assert set(outputs) == set(expected)
    for key in outputs:
      tolerance = {'decoded_box_scores': 1e-4, 'decoded_boxes': 1e-2}.get(key, 0)
      np.testing.assert_allclose(outputs[key], expected[key][batch], 0, tolerance, err_msg=key)
  with routing.shutting_gates(1.0):
    shut = exported.module.serve(tf.constant(images))
  outputs = model(images, {'gate_threshold': 1.0})
  np.testing.assert_allclose(outputs['decoded_box_scores'], shut['decoded_box_scores'], 0, 1e-4)
  assert not any(np.any(outputs[f'gate_dyfpn_{level}']) for level in (3, 4, 5))
  assert report['scalars'] == ['gate_threshold'] and report['timed_images'] == 1
  assert report['milliseconds_open'] > 0 and report['milliseconds_shut'] > 0
  # What `predict` and `profile` load finishes the job as the SavedModel's detector does.
  converted, saved = converted_detectors.load(tmp_path / 'converted'), exported.detector
  finished, wanted = converted(images), saved(images)
  assert set(wanted) == set(finished)
  np.testing.assert_allclose(finished['detection_scores'], wanted['detection_scores'], 0, 1e-4)
  assert finished['detection_scores'].max() > 0.1
  assert converted.set_gate_threshold(1.0) and saved.set_gate_threshold(1.0)
  changed = converted(images)['detection_scores'] - finished['detection_scores']
  assert np.abs(changed).max() > 1e-3
  np.testing.assert_allclose(
      converted(images)['detection_scores'], saved(images)['detection_scores'], 0, 1e-4)


# LiteRT infers the least of all engines: without the rank of a map it has no convolution.  OpenVINO
# never finishes transforming some sums of costs.  The time of tf2onnx grows faster than the graph.
@pytest.mark.parametrize('name, levels, conditionals', [
    ('openvino', 3, 8), ('litert', 3, 8), ('onnx', 1, 4)])
def test_a_dynamic_head_answers_as_the_model_in_memory(tmp_path, name, levels, conditionals):
  engine = catalog.engine(name) if _is_installed(name) else pytest.skip(f'no {name}')
  _, _, module = mixed_detector.build(
      DYNAMIC_HEAD, max_level=2 + levels, head={'tower': {'dynamic': {'num_blocks': 1}}}, **RAW)
  export_saved_model.save(module, tmp_path / 'saved', 'image_tensor', module.image_size)
  (tmp_path / 'saved/export.json').write_text(json.dumps(module.description), encoding='utf-8')
  report = convert.convert(name, tmp_path / 'saved', tmp_path)
  assert report['conditionals'] == report['conditionals_of_saved_model'] == conditionals
  images = mixed_detector.images()
  outputs = engine.Model(tmp_path, num_threads=1)(images)
  for key, value in module.serve(tf.constant(images)).items():
    tolerance = {'decoded_box_scores': 1e-4, 'decoded_boxes': 1e-2}.get(key, 0)
    np.testing.assert_allclose(outputs[key], value, 1e-6, tolerance, err_msg=key)


def test_an_implicit_pyramid_is_compiled_and_compared_on_images(tmp_path):
  if not _is_installed('openvino'):
    pytest.skip('no openvino')
  _, _, module = mixed_detector.build(IFPN, max_level=4, decoder={'ifpn': {
      'num_filters': 8, 'solver': {**small_detectors.SHORT_SOLVER, 'tolerance': 0.5}}}, **RAW)
  export_saved_model.save(module, tmp_path / 'saved', 'image_tensor', module.image_size)
  (tmp_path / 'saved/export.json').write_text(json.dumps(module.description), encoding='utf-8')
  for number, size in enumerate([(48, 70), (90, 50)]):
    Image.fromarray(mixed_detector.images(1, size)[0]).save(tmp_path / f'{number}.png')
  # What OpenVINO does not compile in five minutes is refused.
  convert.main(['--to=openvino', f'--saved_model={tmp_path}/saved',
                f'--output_dir={tmp_path}/converted', f'--images={tmp_path}'])
  report = json.loads((tmp_path / 'converted/conversion.json').read_text(encoding='utf-8'))
  assert report['images'] == [f'{tmp_path}/{number}.png' for number in (0, 1)]
  assert report['milliseconds_open'] is report['milliseconds_shut'] is None
  assert {'decoded_boxes', 'decoded_box_scores', 'multiply_adds'} <= set(report['differences'])


def test_rounded_weights_make_a_smaller_file_with_similar_scores(exported, tmp_path):
  pytest.importorskip('ai_edge_litert')
  folder = tmp_path / 'rounded'
  convert.main(['--to=litert', f'--saved_model={exported.path}', f'--output_dir={folder}',
                '--quantize=dynamic_range'])
  variables, = exported.path.glob('variables/*.data-*')
  # Kernels of branches come as arguments and stay float32.
  assert (folder / 'model.tflite').stat().st_size < 0.85 * variables.stat().st_size
  report = json.loads((folder / 'conversion.json').read_text(encoding='utf-8'))
  assert report['quantize'] == 'dynamic_range' and report['conditionals'] == 6
  assert 1e-4 < report['differences']['decoded_box_scores'] < 0.3


@pytest.mark.parametrize('name', [
    'head/winograd_weights/mul', 'head/winograd/mul', 'neck/fourier/mul', 'kernel'])
def test_transformed_weights_are_not_rounded(name):
  @tf.function
  def serve(images):
    return tf.cond(images[0] > 0, lambda: tf.constant([2.0], name=name) * images, lambda: images)

  signature = serve.get_concrete_function(tf.TensorSpec([1]))
  convert._check_weights(signature, None)
  if name == 'kernel':
    convert._check_weights(signature, 'dynamic_range')
    return
  with pytest.raises(command_line.CommandError, match='dynamic_range: 8 bits .* --no-winograd'):
    convert._check_weights(signature, 'dynamic_range')


def test_only_litert_rounds_weights(tmp_path):
  pytest.importorskip('openvino')
  with pytest.raises(command_line.CommandError, match='dynamic_range: openvino has none'):
    convert.main(['--to=openvino', '--quantize=dynamic_range', f'--saved_model={tmp_path}/none',
                  f'--output_dir={tmp_path}/converted'])


def _is_installed(name):
  try:
    return catalog.engine(name) is not None
  except command_line.CommandError:
    return False


class Portable(tf.Module):
  """Detects 64 boxes that are pixels, and suppresses those that overlap."""

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')])
  def serve(self, inputs):
    pixels = tf.reshape(tf.image.resize(tf.cast(inputs, tf.float32), [8, 8]), [-1, 64, 3])
    corners = pixels[..., :2]
    boxes = tf.concat([corners, corners + pixels[..., 2:]], -1)
    scores = tf.linspace(0.05, 0.95, 64)[None, :, None] + tf.zeros_like(boxes[..., :2])
    return suppression.suppress(
        'portable', [suppression.Level(boxes[:, :, None], scores * [1.0, 0.9])],
        suppression.Rule(0.2, 0.4, 30, per_level=50))


@pytest.mark.parametrize('name', catalog.NAMES)
def test_portable_suppression_runs_in_the_engine(tmp_path, name):
  if not _is_installed(name):
    pytest.skip(f'no {name}')
  module = Portable()
  tf.saved_model.save(module, str(tmp_path / 'saved'), {'serving_default': module.serve})
  report = convert.convert(name, tmp_path / 'saved', tmp_path)
  assert {'detection_boxes', 'detection_scores'} <= set(report['differences'])
  assert not report['scalars']
  images = mixed_detector.images(3)
  outputs, expected = catalog.engine(name).Model(tmp_path)(images), module.serve(images)
  for key, value in expected.items():
    np.testing.assert_allclose(outputs[key], value, 0, 1e-3, err_msg=key)
  assert np.all(expected['num_detections'] > 5)


def test_a_refused_operation_is_named(tmp_path):
  pytest.importorskip('openvino')

  class Suppression(tf.Module):
    """Suppresses boxes that are pixels."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')])
    def serve(self, inputs):
      boxes = tf.cast(inputs[:, :, :2], tf.float32)
      boxes = tf.concat([boxes[..., :2], boxes[..., :2]], -1)
      boxes, scores, classes, _ = tf.image.combined_non_max_suppression(
          boxes, boxes[:, :, 0, :1], 5, 5)
      return {'detection_boxes': boxes, 'detection_scores': scores, 'detection_classes': classes}

  module = Suppression()
  tf.saved_model.save(module, str(tmp_path / 'saved'), {'serving_default': module.serve})
  with pytest.raises(command_line.CommandError, match='no operation CombinedNonMaxSuppression of '
                     'the SavedModel; export with --nms=portable, or, if it has one stage, with'):
    convert.main(['--to=openvino', f'--saved_model={tmp_path}/saved',
                  f'--output_dir={tmp_path}/converted'])
  assert not (tmp_path / 'converted').exists()


def test_what_detects_nothing_is_refused(tmp_path):
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')])
  def classify(inputs):
    return {'logits': tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2])}

  tf.saved_model.save(module, str(tmp_path / 'saved'), {'serving_default': classify})
  with pytest.raises(command_line.CommandError, match='detect objects.* its outputs are logits'):
    convert.load(tmp_path / 'saved')


def test_what_does_not_compile_in_time_is_refused(tmp_path, monkeypatch):
  pytest.importorskip('openvino')
  module = Portable()
  tf.saved_model.save(module, str(tmp_path / 'saved'), {'serving_default': module.serve})
  monkeypatch.setattr(catalog.engine('openvino'), '_SECONDS_TO_COMPILE', 0.01)
  with pytest.raises(command_line.CommandError, match='not compiled after 0.01 seconds.*--to=onnx'):
    convert.convert('openvino', tmp_path / 'saved', tmp_path)


def test_what_differs_is_not_written(exported, tmp_path, monkeypatch):
  pytest.importorskip('openvino')
  engine = catalog.engine('openvino')

  class Wrong(engine.Model):
    def __call__(self, *call):
      outputs = super().__call__(*call)
      return {**outputs, 'gate_dyfpn_4': 1 - outputs['gate_dyfpn_4']}

  monkeypatch.setattr(engine, 'Model', Wrong)
  with pytest.raises(command_line.CommandError, match='differs .* in gate_dyfpn_4 by'):
    _convert('openvino', exported, tmp_path / 'converted')
  assert not (tmp_path / 'converted').exists()


def test_a_missing_package_is_named(monkeypatch):
  engine = catalog.importlib.import_module('official_ext.serving.engines.openvino')
  monkeypatch.setattr(engine, 'PACKAGES', ('not_here',))
  with pytest.raises(command_line.CommandError, match=r'not_here.*official_ext\[openvino\]'):
    catalog.engine('openvino')
