"""Modules load from checkpoints completely, or the run is refused in one sentence."""
import small_detectors
import numpy as np
from official.core import exp_factory
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import deformable
from official_ext.tasks import initialization

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'


@pytest.fixture(scope='module')
def stock_checkpoint(tmp_path_factory):
  """Returns a checkpoint of Model Garden's RetinaNet, as its trainer writes it, and the model."""
  config = small_detectors.small_experiment('retinanet_fpn_efficientnetlite0_sample')
  stock = exp_factory.get_exp_config('retinanet_resnetfpn_coco')
  known, options = stock.task.as_dict(), config.task.as_dict()
  assert not options['model']['head'].pop('tower')['type']  # Model Garden's own head.
  assert options['model'].pop('head_style') == 'garden'
  stock.task.override({field: value for field, value in options.items() if field in known})
  model = task_factory.get_task(stock.task).build_model()
  assert type(model.decoder).__name__ == 'FPN'
  path = tf.train.Checkpoint(model=model, **model.checkpoint_items).save(
      str(tmp_path_factory.mktemp('stock') / 'ckpt'))
  return path, model


def _task(checkpoint, modules, **task):
  config = small_detectors.small_experiment(
      DYFPN, init_checkpoint=checkpoint, init_checkpoint_modules=modules, **task)
  built = task_factory.get_task(config.task)
  return built, built.build_model()


def test_backbone_and_head_of_a_model_garden_checkpoint_load(stock_checkpoint):
  path, stock = stock_checkpoint
  task, model = _task(path, ['backbone', 'head'])
  decoder = [np.array(weight) for weight in model.decoder.get_weights()]
  task.initialize(model)
  for name in ('backbone', 'head'):
    for loaded, saved in zip(getattr(model, name).variables, getattr(stock, name).variables):
      np.testing.assert_array_equal(loaded, saved)
  for before, after in zip(decoder, model.decoder.get_weights()):
    np.testing.assert_array_equal(before, after)


def test_a_partial_load_is_refused(stock_checkpoint):
  task, model = _task(stock_checkpoint[0], 'all')
  with pytest.raises(initialization.InitializationError, match='decoder'):
    task.initialize(model)


def test_another_number_of_classes_is_refused(stock_checkpoint):
  task, model = _task(stock_checkpoint[0], 'backbone,head', model={'num_classes': 4})
  with pytest.raises(initialization.InitializationError, match='task.init_checkpoint'):
    task.initialize(model)


def test_unknown_modules_and_missing_files_are_named(stock_checkpoint):
  task, model = _task(stock_checkpoint[0], 'neck')
  with pytest.raises(initialization.InitializationError, match="'decoder'"):
    task.initialize(model)
  task, model = _task('nowhere/ckpt-1', 'backbone')
  with pytest.raises(initialization.InitializationError, match='nowhere/ckpt-1'):
    task.initialize(model)


@pytest.mark.parametrize('modules', [3, None, [], [2], '', {'backbone': True}])
def test_what_names_no_module_is_refused(modules):
  with pytest.raises(initialization.InitializationError) as caught:
    initialization.load({'backbone': tf.Module(), 'head': tf.Module()}, 'nowhere/ckpt-1', modules)
  assert str(caught.value) == (
      f"task.init_checkpoint_modules is {modules!r}; allowed are `all` and any of ['backbone', "
      "'head'].")


def test_offsets_of_deformable_convolutions_may_be_new_all_together(tmp_path):
  def network(cls):
    model = tf_keras.Sequential([cls(2, 3, name=name) for name in ('first', 'second')])
    model.build([None, 4, 4, 2])
    return model

  path = tf.train.Checkpoint(backbone=network(convolutions.Conv2D)).save(str(tmp_path / 'plain'))
  model = network(deformable.DeformableConv2D)
  initialization.load({'backbone': model}, path, 'backbone')
  reader = tf.train.load_checkpoint(path)
  for index, layer in enumerate(model.layers):
    np.testing.assert_array_equal(layer.kernel, reader.get_tensor(
        f'backbone/layer_with_weights-{index}/kernel/.ATTRIBUTES/VARIABLE_VALUE'))
  mixed = network(convolutions.Conv2D)
  mixed.layers[0].offset = model.layers[0].offset
  path = tf.train.Checkpoint(backbone=mixed).save(str(tmp_path / 'mixed'))
  with pytest.raises(initialization.InitializationError, match='2 variables are not in it'):
    initialization.load({'backbone': model}, path, 'backbone')
