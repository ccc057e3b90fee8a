"""EfficientDet's tower against plain NumPy, its norms per level, and the layer checks."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.heads import dense_head
from official_ext.modeling.heads import separable_tower
from official_ext.ops import checks
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
import component
import harness
import reference
import spies

CHANNELS = {'3': 6, '4': 6, '5': 6}
FILTERS = 4
PART = component.Component(
    separable_tower.SeparableTower, {'num_filters': FILTERS, 'num_convs': 2}, CHANNELS,
    trainable=9 * 6 + 6 * 4 + 4 + 9 * 4 + 4 * 4 + 4 + 2 * 3 * 2 * 4, non_trainable=2 * 3 * 2 * 4,
    names=r'part/(conv_[01]/(depthwise_kernel|pointwise_kernel|bias)'
    r'|norm_[01]_[345]/(gamma|beta|moving_mean|moving_variance)):0',
    output_levels='345')


def _features(dtype=np.float64):
  """Features whose means and deviations differ from level to level."""
  inputs = reference.pyramid_inputs(CHANNELS, (64, 80), dtype=dtype)
  return {level: (int(level) - 2) * (x - 0.7) for level, x in inputs.items()}


def _values(tower):
  return {variable.name[len('part/'):-2]: variable.numpy() for variable in tower.variables}


def _in_numpy(values, x, level, training):
  """Returns the result on a level, and the batch statistics of each norm."""
  statistics = []
  for index in range(2):
    x = reference.separable_conv2d(x, *(values[f'conv_{index}/{part}'] for part in (
        'depthwise_kernel', 'pointwise_kernel', 'bias')))
    norm = [values[f'norm_{index}_{level}/{part}'] for part in (
        'gamma', 'beta', 'moving_mean', 'moving_variance')]
    statistics.append((x.mean((0, 1, 2)), x.var((0, 1, 2))))
    x = reference.batch_norm(x, *(norm[:2] if training else norm))
    x = x * reference.sigmoid(x)
  return x, statistics


@pytest.mark.parametrize('training', [False, True])
def test_equals_numpy(training):
  tower, inputs = PART.make(dtype='float64'), _features()
  values = _values(tower)
  outputs = tower(inputs, training=training)
  for level, x in inputs.items():
    expected, _ = _in_numpy(values, x, level, training)
    np.testing.assert_allclose(outputs[level], expected, 1e-9, 1e-9, err_msg=level)


def test_each_level_moves_the_averages_of_its_own_norms():
  tower, inputs = PART.make(dtype='float64', norm_momentum=0.75), _features()
  before = _values(tower)
  tower(inputs, training=True)
  after, seen = _values(tower), []
  for level, x in inputs.items():
    _, statistics = _in_numpy(before, x, level, training=True)
    for index, found in enumerate(statistics):
      for name, value in zip(('moving_mean', 'moving_variance'), found):
        name = f'norm_{index}_{level}/{name}'
        np.testing.assert_allclose(after[name], 0.75 * before[name] + 0.25 * value, 1e-9)
    seen.append(statistics[0][1].mean())
  assert 1.5 * seen[0] < seen[1] < 0.7 * seen[2], 'variances of the inputs are as 1 to 4 to 9'


def test_contract(tmp_path):
  for check in (harness.check_config, harness.check_saving, harness.check_sizes,
                harness.check_weights, harness.check_precision):
    check(PART, tmp_path)


def test_every_weight_learns_and_a_frozen_tower_keeps_its_averages():
  tower, inputs = PART.make(), _features(np.float32)
  moving = [v for v in tower.variables if 'moving' in v.name]
  with tf.GradientTape() as tape:
    loss = tf.add_n([tf.reduce_mean(x**2) for x in tower(inputs).values()])
  for variable, gradient in zip(
      tower.trainable_variables, tape.gradient(loss, tower.trainable_variables)):
    assert np.any(gradient != 0) and np.all(np.isfinite(gradient)), variable.name
  tower.trainable = False
  before = [v.numpy() for v in moving]
  tower(inputs, training=True)
  np.testing.assert_array_equal(np.stack(before), np.stack(moving))


def test_starts_as_published():
  tower = separable_tower.SeparableTower(64, num_convs=1, name='part')
  tower({'3': tf.zeros([1, 4, 4, 64])})
  values = _values(tower)
  assert np.std(values['conv_0/depthwise_kernel']) == pytest.approx(1 / 24, rel=0.1)
  assert np.std(values['conv_0/pointwise_kernel']) == pytest.approx(1 / 8, rel=0.1)
  assert not np.any(values['conv_0/bias'])


def test_a_checkpoint_gives_the_norms_of_each_level_back(tmp_path):
  tower, again, inputs = PART.make(), PART.make(seed=1), _features(np.float32)
  expected = tower(inputs)
  assert np.max(np.abs(again(inputs)['4'] - expected['4'])) > 0.1
  path = tf.train.Checkpoint(tower=tower).save(str(tmp_path / 'ckpt'))
  tf.train.Checkpoint(tower=again).restore(path).assert_consumed()
  component.same(again(inputs), expected)


def test_a_head_of_efficientdet_d1_has_the_published_weights():
  """101,394 weights for 90 classes, and 32,508 for boxes; 9 anchors at every location."""
  head = dense_head.AnchorHead(
      90, num_filters=88, tower='separable', tower_options={'num_convs': 3},
      use_separable_conv=True, name='head')
  head({level: tf.zeros([1, 2, 2, 88]) for level in '34567'})
  count = {name: sum(np.prod(v.shape) for v in head.trainable_variables if f'/{name}' in v.name)
           for name in ('class', 'box')}
  assert count == {'class': 101_394, 'box': 32_508}
  norms = [layer for layer in head.submodules
           if isinstance(layer, tf_keras.layers.BatchNormalization)]
  assert len(norms) == 2 * 3 * 5


@pytest.mark.parametrize('option, value, message', [
    ('num_convs', 0, 'num_convs is 0; it must be at least 1'),
    ('activation', 'swich', "activation is 'swich'; it must be one that Keras knows")])
def test_wrong_options_are_named(option, value, message):
  with pytest.raises(checks.ArgumentError, match=message):
    separable_tower.SeparableTower(**{option: value})


def test_other_levels_are_named():
  tower = PART.make()
  with pytest.raises(ValueError, match='part has norms for levels 3, 4, 5; the input has 3, 4'):
    tower({level: x for level, x in PART.inputs().items() if level != '5'})


def test_an_export_folds_the_norms_of_every_level():
  tower = separable_tower.SeparableTower(6, num_convs=2, name='tower')
  shapes = {'3': [2, 8, 8, 4], '4': [2, 4, 4, 4]}
  tower({level: tf.zeros(shape) for level, shape in shapes.items()})
  spies.randomize(tower)
  function = signatures.with_names(
      lambda *inputs: tower(dict(zip(shapes, inputs))),
      [tf.TensorSpec(shape, tf.float32, f'level_{level}') for level, shape in shapes.items()])
  folded, folding = frozen.freeze(function)
  assert (folding.folded, folding.kept) == (2 * len(shapes), 0)
  random = np.random.default_rng(0)
  inputs = {f'level_{level}': tf.constant(random.normal(size=shape), tf.float32)
            for level, shape in shapes.items()}
  for level, expected in function(**inputs).items():
    np.testing.assert_allclose(folded(**inputs)[level], expected, 1e-4, 1e-5)
