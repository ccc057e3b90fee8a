"""The folder for TensorFlow Serving: versions, and requests that its definitions can read."""
import json
import pathlib
import subprocess
import sys
import types

from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving import export_saved_model
from official_ext.serving import input_types
from official_ext.serving import serving_layout
from official_ext.utils import command_line
import mixed_detector
import small_detectors

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
CATEGORIES = [{'id': 1, 'name': 'nought', 'original_id': 0},
              {'id': 10, 'name': 'nine', 'original_id': 'IX'}]

# Message -> field: (number, type), as in tensorflow_serving/apis.
MESSAGES = {
    'ModelSpec': {'name': (1, 'string'), 'signature_name': (3, 'string')},
    'Entry': {'key': (1, 'string'), 'value': (2, 'bytes')},
    'PredictRequest': {'model_spec': (1, 'ModelSpec'), 'inputs': (2, 'Entry')},
    'PredictLog': {'request': (1, 'PredictRequest')},
    'PredictionLog': {'predict_log': (6, 'PredictLog')},
}


def _prediction_log():
  """Returns the class of `PredictionLog`, made from its definition; a map is repeated entries."""
  field_type = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(name='log.proto', package='t', syntax='proto3')
  for name, fields in MESSAGES.items():
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
      own = message.field.add(name=field, number=number, label=field_type.LABEL_OPTIONAL)
      if field == 'inputs':
        own.label = field_type.LABEL_REPEATED
      if kind in ('string', 'bytes'):
        own.type = getattr(field_type, f'TYPE_{kind.upper()}')
      else:
        own.type, own.type_name = field_type.TYPE_MESSAGE, f'.t.{kind}'
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('t.PredictionLog'))


def _requests(folder):
  """Returns the warm-up requests of a version."""
  path = folder / 'assets.extra' / 'tf_serving_warmup_requests'
  return [_prediction_log().FromString(record.numpy()).predict_log.request
          for record in tf.data.TFRecordDataset(str(path))]


def _tensor(request):
  """Returns the one input of a request."""
  entry, = request.inputs
  assert entry.key == 'inputs'
  return tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(entry.value))


def test_versions_are_numbered(tmp_path):
  folder = tmp_path / 'models'
  assert serving_layout.next_version(folder) == folder / '1'
  for name in ('1', '10', 'notes', '3x'):
    (folder / name).mkdir(parents=True)
  assert serving_layout.next_version(folder) == folder / '11'


def test_requests_are_of_the_cheapest_and_the_dearest_images(tmp_path):
  random = np.random.default_rng(0)
  batches = [random.integers(0, 256, (2, 40, 50, 3), np.uint8) // divisor for divisor in (1, 9)]

  def run(images):  # Bright images are dear.
    return {'multiply_adds': tf.reduce_mean(tf.cast(images, tf.float32), (1, 2, 3))}

  serving_layout.write_warm_up(
      tmp_path, 'blood', 'serving_default', run, batches,
      lambda images: input_types.encode(images, 'image_tensor'))
  for request, images in zip(_requests(tmp_path), (batches[1], batches[0]), strict=True):
    assert (request.model_spec.name, request.model_spec.signature_name) == (
        'blood', 'serving_default')
    np.testing.assert_array_equal(_tensor(request), images)


@pytest.fixture(scope='module')
def served(tmp_path_factory):
  """A detector with mixed decisions that the command wrote for TensorFlow Serving, loaded."""
  folder = tmp_path_factory.mktemp('layout')
  _, model, module = mixed_detector.build(DYFPN)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(folder / 'run' / 'ckpt')
  (folder / 'run' / 'categories.json').write_text(json.dumps(CATEGORIES), encoding='utf-8')
  arguments = [
      f'--experiment={DYFPN}', small_detectors.write_overrides(DYFPN, folder),
      f'--checkpoint_path={folder}/run', f'--export_dir={folder}/digits', '--serving_layout']
  export_saved_model.main(arguments)
  version, = (folder / 'digits').iterdir()
  loaded = tf.saved_model.load(str(version))
  return types.SimpleNamespace(
      version=version, loaded=loaded, module=module, detect=loaded.signatures['serving_default'],
      arguments=arguments)


@pytest.mark.slow
def test_a_saved_model_answers_its_own_warm_up(served):
  assert served.version.name == '1'
  costs = []
  for request in _requests(served.version):
    assert (request.model_spec.name, request.model_spec.signature_name) == (
        'digits', 'serving_default')
    images = _tensor(request)
    assert images.dtype == np.uint8 and images.ndim == 4 and len(images) == 1
    outputs = served.detect(inputs=tf.constant(images))
    expected = served.module.serve(tf.constant(images))
    np.testing.assert_allclose(outputs['multiply_adds'], expected['multiply_adds'], 1e-6)
    np.testing.assert_allclose(
        outputs['detection_scores'], expected['detection_scores'], atol=1e-5)
    costs.append(float(outputs['multiply_adds'][0]))
  easy, hard = costs
  assert easy < hard


@pytest.mark.slow
def test_saved_model_cli_answers_as_the_loaded_model(served, tmp_path):
  images = _tensor(_requests(served.version)[1])
  np.save(tmp_path / 'images.npy', images)
  subprocess.run(
      [sys.executable, pathlib.Path(sys.executable).parent / 'saved_model_cli', 'run',
       '--dir', served.version, '--tag_set', 'serve', '--signature_def', 'serving_default',
       '--inputs', f'inputs={tmp_path}/images.npy', '--outdir', tmp_path / 'outputs'],
      check=True, capture_output=True)
  expected = served.detect(inputs=tf.constant(images))
  found = {path.stem: np.load(path) for path in (tmp_path / 'outputs').iterdir()}
  assert set(found) == set(expected)
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, 1e-4, 1e-4, err_msg=name)
  assert found['detection_scores'].max() > 0.1


@pytest.mark.slow
def test_class_names_lie_in_the_version(served):
  path = pathlib.Path(served.loaded.categories.asset_path.numpy().decode())
  assert path.parent == served.version / 'assets'
  inside = json.loads(path.read_text(encoding='utf-8'))
  described = json.loads((served.version / 'export.json').read_text(encoding='utf-8'))
  assert inside == described['categories'] == CATEGORIES


@pytest.mark.slow
def test_a_version_that_another_export_wrote_meanwhile_is_kept(served, monkeypatch):
  before = (served.version / 'export.json').read_bytes()
  # So it was when this export began.
  monkeypatch.setattr(serving_layout, 'next_version', lambda folder: served.version)
  monkeypatch.setattr(export_saved_model, 'save', lambda *_: {'detection_boxes': 0.0})
  monkeypatch.setattr(export_saved_model, '_write_warm_up', lambda *_: None)
  with pytest.raises(command_line.CommandError, match='/1 was written by another .* run this one'):
    export_saved_model.main(served.arguments)
  assert (served.version / 'export.json').read_bytes() == before
  assert [path.name for path in served.version.parent.iterdir()] == ['1']
