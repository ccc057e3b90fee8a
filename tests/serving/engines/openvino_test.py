"""OpenVINO gets a model for the number of images of a call, in which it knows all sizes."""
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.ops import sparse_block
from official_ext.serving.compiling import frozen
from official_ext.serving.engines import catalog
from official_ext.utils import command_line

# An import would start its telemetry, which the engine leaves out.
if not importlib.util.find_spec('openvino'):
  pytest.skip('no openvino', allow_module_level=True)

CHANNELS = 64
SIDE = 64


class Gated(tf.Module):
  """A gated residual block on a map that every image is resized to."""

  def __init__(self):
    super().__init__()
    numbers = np.random.default_rng(0)
    kernel = [3, 3, CHANNELS, CHANNELS]
    self.weights = [tf.constant(numbers.normal(size=shape) * 0.05, tf.float32) for shape in (
        kernel, [CHANNELS], [CHANNELS], kernel, [CHANNELS], [CHANNELS])]

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')])
  def serve(self, inputs):
    batch = tf.shape(inputs)[:1]
    pixels = tf.image.resize(tf.cast(inputs, tf.float32) / 255, [SIDE, SIDE])
    pixels = tf.reshape(pixels, tf.concat([batch, [SIDE, SIDE, 3]], 0))
    x = tf.tile(pixels, [1, 1, 1, 22])[..., :CHANNELS]
    gate = tf.nn.relu(pixels[..., :1] - 0.9)
    return {'result': sparse_block.residual_block(
        x, gate, sparse_block.ResidualWeights(*self.weights), group_norm.num_groups_of(CHANNELS),
        adds_input=True)}


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
  folder = tmp_path_factory.mktemp('converted')
  module = Gated()
  # As exports are: what conditionals take from outside are their arguments.
  function, _ = frozen.freeze(module.serve.get_concrete_function())
  holder = tf.Module()
  holder.function = function
  tf.saved_model.save(holder, str(folder / 'saved'), {'serving_default': function})
  catalog.engine('openvino').convert(folder / 'saved', 'serving_default', folder)
  return module, folder


def _images(batch):
  return np.random.default_rng(batch).integers(0, 256, [batch, 20, 30, 3], np.uint8)


def _results_of_conditionals(model):
  """Returns the shapes of the results of all conditionals, those inside of others included."""
  shapes = []
  for operation in model.get_ops():
    if operation.get_type_name() == 'If':
      shapes += [output.get_partial_shape() for output in operation.outputs()]
      for branch in (0, 1):
        shapes += _results_of_conditionals(operation.get_function(branch))
  return shapes


@pytest.mark.parametrize('batch', [1, 3])
def test_sizes_are_known_behind_conditionals(converted, batch):
  _, folder = converted
  shapes = _results_of_conditionals(
      catalog.engine('openvino').Model(folder, num_threads=1).of_batch(batch))
  assert len(shapes) >= 2
  assert [list(shape.to_shape()) for shape in shapes if shape.is_static] == (
      [[batch, SIDE, SIDE, CHANNELS]] * len(shapes))


def test_every_number_of_images_has_its_own_model(converted):
  module, folder = converted
  model = catalog.engine('openvino').Model(folder, num_threads=1)
  for batch in (1, 3, 2):
    images = _images(batch)
    np.testing.assert_allclose(
        model(images)['result'], module.serve(images)['result'], rtol=0, atol=1e-4)
    assert model.compile(batch) is model.compile(batch)
  assert model.compile(1) is not model.compile(3)


def test_smaller_batches_take_the_model_of_larger_ones(converted, monkeypatch):
  module, folder = converted
  model, made = catalog.engine('openvino').Model(folder, num_threads=1), []
  of_batch = model.of_batch
  monkeypatch.setattr(model, 'of_batch', lambda batch: made.append(batch) or of_batch(batch))
  for batch in (4, 3, 2, 1, 4):
    images = _images(batch)
    result = model(images)['result']
    assert result.shape == (batch, SIDE, SIDE, CHANNELS)
    np.testing.assert_allclose(result, module.serve(images)['result'], rtol=0, atol=1e-4)
  # One image is less than half of four.
  assert made == [4, 1]


def test_files_of_older_versions_run_for_any_number_of_images(converted, monkeypatch):
  module, folder = converted
  engine = catalog.engine('openvino')
  monkeypatch.setattr(engine, '_KNOWN_BATCH', ['official_ext', 'absent'])
  model = engine.Model(folder, num_threads=1)
  assert model.compile(1) is model.compile(3)
  for batch in (1, 3):
    images = _images(batch)
    np.testing.assert_allclose(
        model(images)['result'], module.serve(images)['result'], rtol=0, atol=1e-4)


def test_files_that_are_not_read_are_named(tmp_path):
  (tmp_path / 'model.xml').write_text('<net name="half of a fi')
  with pytest.raises(command_line.CommandError, match=r'model\.xml: .* does not read it: '):
    catalog.engine('openvino').Model(tmp_path)


def test_numbers_of_images_that_do_not_compile_are_named(tmp_path):
  def serve(inputs):
    return {'result': tf.reshape(tf.cast(inputs, tf.float32), [1, 16, 16, 3]) * 2}

  spec = tf.TensorSpec([None, 16, 16, 3], tf.uint8, 'inputs')
  holder = tf.Module()
  holder.function = tf.function(serve).get_concrete_function(spec)
  tf.saved_model.save(holder, str(tmp_path / 'saved'), {'serving_default': holder.function})
  engine = catalog.engine('openvino')
  engine.convert(tmp_path / 'saved', 'serving_default', tmp_path)
  model = engine.Model(tmp_path)
  images = np.full([1, 16, 16, 3], 3, np.uint8)
  np.testing.assert_array_equal(model(images)['result'], np.full([1, 16, 16, 3], 6, np.float32))
  with pytest.raises(command_line.CommandError, match='does not compile it for 2 images: '):
    model(np.concatenate([images, images]))


@pytest.mark.parametrize('fixed, compiled', [(None, 1), (3, 3)])
def test_compiling_is_tried_for_the_number_of_images_that_the_model_takes(
    tmp_path, monkeypatch, fixed, compiled):
  spec = tf.TensorSpec([fixed, None, None, 3], tf.uint8, 'inputs')
  holder = tf.Module()
  holder.function = tf.function(
      lambda inputs: {'result': tf.cast(inputs, tf.float32)}).get_concrete_function(spec)
  tf.saved_model.save(holder, str(tmp_path / 'saved'), {'serving_default': holder.function})
  engine, tried = catalog.engine('openvino'), []
  monkeypatch.setattr(engine.subprocess, 'run', lambda command, **_: tried.append(command[-1]))
  engine.convert(tmp_path / 'saved', 'serving_default', tmp_path)
  assert tried == [str(compiled)]
  assert engine.Model(tmp_path)(_images(compiled))['result'].shape[0] == compiled


def test_a_model_that_cannot_be_written_is_named(converted):
  _, folder = converted
  with pytest.raises(command_line.CommandError, match='(?s)model.xml could not .*free some'):
    catalog.engine('openvino').convert(folder / 'saved', 'serving_default', folder / 'model.xml')
