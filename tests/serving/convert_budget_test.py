"""Conversions of networks that take a budget: one number, with which they answer as the export."""
import json
import shutil
import time

import numpy as np
from PIL import Image
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
  (path / 'params.yaml').write_text('task: {}')
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
  assert (tmp_path / 'params.yaml').read_text() == 'task: {}'
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


def test_the_table_of_budgets_is_not_that_of_a_new_conversion(saved, tmp_path, engine):
  copy = shutil.copytree(saved, tmp_path / 'copy')
  description = {'input_image_size': [16, 16], 'budgets': {'points': []}}
  (copy / 'export.json').write_text(json.dumps(description))
  _convert(copy, tmp_path)
  converted = json.loads((tmp_path / 'converted/export.json').read_text())
  assert converted == {'input_image_size': [16, 16], 'batch_size': None}


def test_a_budget_that_a_conversion_does_not_follow_is_an_error(saved, tmp_path, monkeypatch):
  engine = catalog.engine('onnx') if _has_onnx() else pytest.skip('no onnx')

  class Neutral(engine.Model):
    def __call__(self, images, scalars):
      return super().__call__(images, {})

  monkeypatch.setattr(engine, 'Model', Neutral)
  with pytest.raises(command_line.CommandError, match='differs .* in .*gate_neck by 1'):
    convert.convert('onnx', saved, tmp_path)


class Engine:
  """Stands for an engine: its model is the SavedModel, in another size of image perhaps not."""

  FILE, QUANTIZATIONS, version = 'model.fake', (), staticmethod(lambda: '1.0')
  conditionals, slow_at, wrong_shape, error = 1, None, None, None

  def convert(self, saved_model, name, folder, quantize):
    del name, folder, quantize
    self.source = convert.load(saved_model)
    return self.conditionals

  def Model(self, folder):  # noqa: N802
    del folder
    return self._run

  def _run(self, images, scalars):
    if self.error:
      raise self.error
    if scalars and scalars['budget'] == self.slow_at:
      time.sleep(0.02)
    outputs = self.source.run(images, scalars)
    if images.shape[1:3] == self.wrong_shape:
      outputs['multiply_adds'] = outputs['multiply_adds'] * 1.01
    return outputs


@pytest.fixture
def engine(monkeypatch):
  fake = Engine()
  monkeypatch.setattr(catalog, 'engine', lambda name: fake)
  return fake


def _convert(saved, folder, *options):
  convert.main(['--to=onnx', f'--saved_model={saved}', f'--output_dir={folder}/converted',
                *options])
  return json.loads((folder / 'converted/conversion.json').read_text(encoding='utf-8'))


def test_is_compared_on_images_of_the_user(saved, tmp_path, engine, capsys):
  photos = tmp_path / 'photos'
  photos.mkdir()
  for number, image in enumerate(mixed_detector.images(6, (24, 40))):
    Image.fromarray(image).save(photos / f'{number}.png')
  engine.wrong_shape = (24, 40)
  assert _convert(saved, tmp_path)['images'] == []
  assert 'of --images' not in capsys.readouterr().out
  with pytest.raises(command_line.CommandError, match='differs .* in multiply_adds by 0.01 '):
    _convert(saved, tmp_path, f'--images={photos}')
  engine.wrong_shape = None
  assert _convert(saved, tmp_path, f'--images={photos}')['images'] == [
      f'{photos}/{number}.png' for number in (0, 2, 3, 5)]
  assert 'compared on 4 images of --images too' in capsys.readouterr().out


@pytest.mark.parametrize('slow_at, is_warned', [(1.0, False), (0.0, True)])
def test_times_open_and_shut_gates(saved, tmp_path, engine, capsys, slow_at, is_warned):
  engine.slow_at = slow_at
  report = _convert(saved, tmp_path)
  slow, fast = (report[f'milliseconds_{name}'] for name in (
      ('shut', 'open') if is_warned else ('open', 'shut')))
  assert slow >= 20 and slow > fast and report['timed_images'] == 1
  said = capsys.readouterr().out
  assert ('with every gate shut the model is not faster' in said) == is_warned
  assert (f'1 image: {report["milliseconds_open"]:.1f} ms with every gate open, '
          f'{report["milliseconds_shut"]:.1f} ms with every gate shut.') in said


def test_says_if_conditionals_are_lost(saved, tmp_path, engine, monkeypatch, capsys):
  assert _convert(saved, tmp_path)['conditionals_of_saved_model'] == 1
  assert 'of the' not in capsys.readouterr().out
  monkeypatch.setattr(convert, 'count_conditionals', lambda signature: 3)
  report = _convert(saved, tmp_path)
  assert (report['conditionals'], report['conditionals_of_saved_model']) == (1, 3)
  assert 'has 1 of the 3 conditionals of the SavedModel' in capsys.readouterr().out
  engine.conditionals = 0
  with pytest.raises(command_line.CommandError, match='lost the 3 conditionals'):
    _convert(saved, tmp_path)


def test_a_conversion_that_does_not_run_is_refused(saved, tmp_path, engine):
  engine.error = RuntimeError('at node 7\nshapes differ\n')
  with pytest.raises(command_line.CommandError, match=r'fails .* \(shapes differ\), so nothing'):
    _convert(saved, tmp_path)
  assert not (tmp_path / 'converted').exists()


def test_an_image_that_fails_is_refused_before_the_conversion(
    saved, tmp_path, engine, monkeypatch):
  source = convert.load(saved)

  def run(images, scalars=None):
    del images, scalars
    raise ValueError('nothing is left of it')

  monkeypatch.setattr(convert, 'load', lambda path: source._replace(run=run))
  Image.new('RGB', (9, 5)).save(tmp_path / 'long.png')
  with pytest.raises(command_line.CommandError, match=r'--images: .*long\.png: .* 9 x 5 pixels'):
    _convert(saved, tmp_path, f'--images={tmp_path}/long.png')
  assert not hasattr(engine, 'source')


def test_says_if_no_gate_was_open():
  result = {'engine': 'onnx', 'conditionals': 6, 'conditionals_of_saved_model': 6,
            'scalars': ['gate_threshold'], 'milliseconds_open': None, 'milliseconds_shut': None}
  sentence, = convert.warnings(result)
  assert 'no gate is open' in sentence and '--images' in sentence
  assert not list(convert.warnings({**result, 'scalars': []}))


def _has_onnx():
  try:
    return bool(catalog.engine('onnx'))
  except command_line.CommandError:
    return False
