"""Weights that are packed as float16 come back as a checkpoint of the same model."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import half_checkpoints


def _model(seed):
  model = tf_keras.Sequential([
      tf_keras.layers.Dense(3, kernel_initializer=tf_keras.initializers.RandomNormal(seed=seed)),
      tf_keras.layers.BatchNormalization()])
  model.build([None, 2])
  model.steps = tf.Variable(7 * seed, dtype=tf.int64)
  return model


def test_weights_come_back_rounded_and_the_optimizer_is_left_out(tmp_path):
  model = _model(1)
  optimizer = tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9)
  optimizer.apply_gradients([(tf.ones([2, 3]), model.trainable_variables[0])])
  # The trainer names parts of the model too, under which variables are then stored.
  saved = tf.train.Checkpoint(
      model=model, optimizer=optimizer, part=model.layers[0]).save(tmp_path / 'ckpt')
  half_checkpoints.pack(saved, tmp_path / 'weights.npz')
  with np.load(tmp_path / 'weights.npz') as arrays:
    assert not any('SLOT' in name or name.startswith('optimizer') for name in arrays.files)
    assert {arrays[name].dtype.name for name in arrays.files} == {'float16', 'int64', 'uint8'}
  folder = tmp_path / 'unpacked'
  folder.mkdir()
  half_checkpoints.unpack(tmp_path / 'weights.npz', folder)
  found = _model(2)
  checkpoints.restore(found, folder)
  assert len(found.variables) == 7
  for variable, original in zip(found.variables, model.variables):
    expected = original.numpy()
    if variable.dtype == tf.float32:
      expected = expected.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(variable.numpy(), expected)
  assert np.any(found.variables[0].numpy() != model.variables[0].numpy())


def test_what_float16_cannot_hold_is_named(tmp_path):
  model = _model(1)
  model.layers[1].moving_variance.assign([1, 7e4, 1])
  saved = tf.train.Checkpoint(model=model).save(tmp_path / 'ckpt')
  with pytest.raises(command_line.CommandError, match='moving_variance.* has a value of 7e'):
    half_checkpoints.pack(saved, tmp_path / 'weights.npz')
  assert not (tmp_path / 'weights.npz').exists()
