"""The information of gates against NumPy in float64, its gradient, and its ends."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import information
from official_ext.ops import routing


def record(gates, probabilities=None):
  zero = tf.zeros([])
  return routing.Routing(gates, zero, zero, zero, zero, zero, probabilities=probabilities or {})


def entropy(distribution):
  return -sum(p * np.log(p) for p in distribution if p > 0)


def numpy_information(distributions):
  """Returns the mean over gates, each `[images, decisions]`, one image after the other."""
  found = []
  for images in distributions:
    mean = sum(images) / len(images)
    found.append(entropy(mean) - sum(entropy(image) for image in images) / len(images))
  return sum(found) / len(found)


def choices(random, images, paths):
  """Returns distributions over paths, some of which are sure, or shut one path."""
  values = random.uniform(size=[images, paths]) * (random.uniform(size=[images, paths]) > 0.3)
  values[:, 0] += values.sum(1) == 0
  return values / values.sum(1, keepdims=True)


def draw(seed):
  """Returns two records of a batch, and the distributions of their gates in float64."""
  random = np.random.default_rng(seed)
  images = int(random.integers(1, 7))
  opens = random.uniform(size=[2, images]) * random.integers(0, 2, [2, images])
  opens[1] = np.round(opens[1])
  paths = choices(random, images, 3)
  maps = random.uniform(size=[images, 3, 4, 1]) * random.integers(0, 2, [images, 1, 1, 1])
  sampled = np.eye(3)[random.integers(0, 3, images)]
  tensors = [tf.constant(value, tf.float32) for value in (*opens, paths, maps, sampled)]
  records = {
      'one': record({'a': tensors[0], 'b': tensors[1], 'c': tensors[4]}, {'c': tensors[2]}),
      'two': record({'map': tensors[3]}), 'none': record({})}
  shares = maps.mean((1, 2, 3))
  pairs = [np.stack([1 - value, value], 1) for value in (*opens, shares)]
  return records, [*pairs, paths]


def test_equals_numpy_in_200_cases():
  for seed in range(200):
    records, distributions = draw(seed)
    np.testing.assert_allclose(
        information.information(records), numpy_information(distributions), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize('compiled', [False, True])
def test_gradient_equals_differences_as_a_graph_and_compiled(compiled):
  values = np.random.default_rng(0).uniform(0.05, 0.95, [5])

  @tf.function(jit_compile=compiled)
  def gradient(gate):
    with tf.GradientTape() as tape:
      tape.watch(gate)
      found = information.information({'layer': record({'gate': gate})})
    return tape.gradient(found, gate)

  def at(gate):
    return numpy_information([np.stack([1 - gate, gate], 1)])

  differences = [(at(values + step) - at(values - step)) / 2e-5 for step in 1e-5 * np.eye(5)]
  np.testing.assert_allclose(gradient(tf.constant(values, tf.float32)), differences, atol=1e-5)
  sure = gradient(tf.constant([0.0, 1.0, 0.5, 0.0, 1.0]))
  assert np.all(np.isfinite(sure))


@pytest.mark.parametrize('gate, expected', [
    ([1.0, 0.0, 1.0, 0.0], np.log(2)), ([0.7] * 4, 0), ([0.0] * 4, 0), ([1.0] * 4, 0), ([0.3], 0)])
def test_ends(gate, expected):
  found = information.information({'layer': record({'gate': tf.constant(gate)})})
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_gates_it_is_an_error():
  with pytest.raises(ValueError, match='No layer recorded a gate'):
    information.information({'solver': record({})})
