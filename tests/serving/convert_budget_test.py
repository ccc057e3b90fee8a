"""Conversions of networks that take a budget: one number, with which they answer as the export."""
import json

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders.dyfpn import budget_tracker
from official_ext.ops import routing
from official_ext.serving import convert
from official_ext.serving import signatures
from official_ext.serving.engines import catalog
from official_ext.utils import command_line
import mixed_detector

BUDGETS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


class Budgeted(tf.Module):
  """Has the signatures of a detector with a gate that takes a budget, and a threshold without use.

  The gate's logit is the image's mean brightness, and what it opens runs in a conditional.
  """

  def __init__(self):
    super().__init__()
    self.layer = budget_tracker.BudgetTracker(1, [0.0, 1.0])
    self.layer(tf.zeros([1, 1, 2]))
    brightness = self._logits(mixed_detector.images(4))[..., 1]
    for variable in self.layer.variables:
      if '/mean:' in variable.name or variable.name == 'mean:0':
        variable.assign([[np.mean(brightness)]])
      elif 'variance' in variable.name:
        variable.assign([[np.var(brightness)]])

  def _logits(self, images):
    """Returns 0 and the brightness, `[batch, 1, 2]`."""
    brightness = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2, 3])[:, None]
    return tf.stack([tf.zeros_like(brightness), brightness], -1)

  def _serve(self, images, budget):
    with routing.spending(tf.broadcast_to(tf.reshape(budget, [-1]), tf.shape(images)[:1])):
      gate = tf.cast(self.layer(self._logits(images))[..., 1] > 0, tf.float32)
    pixels = tf.cast(images[:, :2, :2], tf.float32)
    boxes = tf.cond(tf.reduce_any(gate > 0), lambda: pixels * gate[:, :, None, None],
                    lambda: tf.zeros_like(pixels))
    return {'decoded_boxes': 2 * boxes, 'gate_neck': gate[:, 0], 'multiply_adds': 1e9 * gate[:, 0]}

  def functions(self):
    """Returns the signatures by name."""
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs')
    threshold = tf.TensorSpec([], tf.float32, 'gate_threshold')
    budget = tf.TensorSpec(None, tf.float32, 'budget')
    return {
        signatures.DEFAULT: signatures.with_names(lambda x: self._serve(x, 1.0), [images]),
        signatures.WITH_GATE_THRESHOLD: signatures.with_names(
            lambda x, unused: self._serve(x, 1.0), [images, threshold]),
        signatures.WITH_BUDGET: signatures.with_names(self._serve, [images, budget])}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  module, path = Budgeted(), tmp_path_factory.mktemp('saved')
  tf.saved_model.save(module, str(path), module.functions())
  (path / 'export.json').write_text(json.dumps({'input_image_size': [16, 16]}))
  (path / 'model_card.json').write_text('{"experiment": "budgeted"}')
  return path


@pytest.mark.parametrize('name', catalog.NAMES)
def test_a_conversion_has_a_budget_in_place_of_a_threshold(saved, tmp_path, name):
  try:
    engine = catalog.engine(name)
  except command_line.CommandError:
    pytest.skip(f'no {name}')
  report = convert.convert(name, saved, tmp_path)
  assert report['scalars'] == ['budget'] and report['conditionals'] == 1
  assert (tmp_path / 'model_card.json').read_text() == '{"experiment": "budgeted"}'
  model, source, images = engine.Model(tmp_path), convert.load(saved), mixed_detector.images(4)
  assert model.scalars == ['budget']
  opened = []
  for budget in BUDGETS:
    for batch in (images, images[1:2]):
      expected, outputs = source.run(batch, {'budget': budget}), model(batch, {'budget': budget})
      assert set(expected) == set(outputs)
      for key, value in outputs.items():
        np.testing.assert_array_equal(value, expected[key], key)
    opened.append(np.sum(source.run(images, {'budget': budget})['gate_neck']))
  assert opened == sorted(opened) and len(set(opened)) > 2 and (opened[0], opened[-1]) == (0, 4)
  np.testing.assert_array_equal(model(images)['gate_neck'], 1)


def test_a_budget_that_a_conversion_does_not_follow_is_an_error(saved, tmp_path, monkeypatch):
  engine = catalog.engine('onnx') if _has_onnx() else pytest.skip('no onnx')

  class Neutral(engine.Model):
    def __call__(self, images, scalars):
      return super().__call__(images, {})

  monkeypatch.setattr(engine, 'Model', Neutral)
  with pytest.raises(command_line.CommandError, match='differs .* in .*gate_neck by 1'):
    convert.convert('onnx', saved, tmp_path)


def _has_onnx():
  try:
    return bool(catalog.engine('onnx'))
  except command_line.CommandError:
    return False
