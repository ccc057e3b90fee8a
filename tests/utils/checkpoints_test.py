"""A checkpoint is restored completely, or an error names what does not fit."""
import pathlib

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import files


def _model(units=3, extra=False):
  layers = [
      tf_keras.layers.Dense(units, name='first'), tf_keras.layers.BatchNormalization(name='n')]
  if extra:
    layers.append(tf_keras.layers.Dense(2, name='extra'))
  model = tf_keras.Sequential(layers, name='net')
  model.build((None, 4))
  for variable in model.variables:
    variable.assign(tf.random.normal(variable.shape))
  return model


def _save(model, folder):
  """Saves a model as the trainer does: after an optimizer's step, with its backbone beside it."""
  optimizer = tf_keras.optimizers.SGD(0.1, momentum=0.9)
  optimizer.apply_gradients((tf.ones_like(v), v) for v in model.trainable_variables)
  return tf.train.Checkpoint(
      global_step=tf.Variable(1), backbone=model.layers[0], model=model,
      optimizer=optimizer).save(folder / 'ckpt')


@pytest.mark.parametrize('folder', ['run', 'run [v2]', 'x*y', 'back\\slash'])
@pytest.mark.parametrize('path', ['ckpt-1', 'ckpt-1.index', '.'])
def test_everything_is_restored(tmp_path, folder, path):
  saved, restored = _model(), _model()
  _save(saved, pathlib.Path(files.plain_path(tmp_path / folder)))
  assert checkpoints.restore(restored, tmp_path / folder / path) == f'{tmp_path / folder}/ckpt-1'
  assert len(saved.variables) == 6
  for expected, actual in zip(saved.variables, restored.variables):
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('saved, restored, finding', [
    ({}, {'extra': True}, '2 variables of this model are not in it, such as extra/kernel'),
    ({'extra': True}, {}, '2 of its variables are not in this model, such as extra/kernel'),
    ({}, {'units': 5}, r'6 variables have another shape in it, such as first/kernel:0 \[4, 3\] '
     r'instead of \[4, 5\]'),
])
def test_another_model_is_refused_and_nothing_is_read(tmp_path, saved, restored, finding):
  _save(_model(**saved), tmp_path)
  model = _model(**restored)
  before = [variable.numpy() for variable in model.variables]
  with pytest.raises(command_line.CommandError, match=finding):
    checkpoints.restore(model, tmp_path)
  for expected, actual in zip(before, model.variables):
    np.testing.assert_array_equal(actual, expected)


def test_missing_and_damaged_checkpoints_are_named(tmp_path):
  with pytest.raises(command_line.CommandError, match='a folder without a checkpoint'):
    checkpoints.restore(_model(), tmp_path)
  with pytest.raises(command_line.CommandError, match='--flag=.*ckpt-9: there is no such'):
    checkpoints.find(tmp_path / 'ckpt-9', '--flag')
  checkpoint = _save(_model(), tmp_path)
  with open(checkpoint + '.index', 'r+b') as file:
    file.truncate(100)
  with pytest.raises(command_line.CommandError, match='damaged or not a TensorFlow 2'):
    checkpoints.restore(_model(), checkpoint)


def test_lost_weights_are_noticed(tmp_path):
  checkpoint = _save(_model(), tmp_path)
  with open(checkpoint + '.data-00000-of-00001', 'r+b') as file:
    file.truncate(10)
  with pytest.raises(command_line.CommandError, match='damaged or not a TensorFlow 2'):
    checkpoints.restore(_model(), checkpoint)
