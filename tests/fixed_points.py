"""Maps with known fixed points, in TensorFlow: the problems on which every solver is tested."""
import functools

import numpy as np
import tensorflow as tf

from official_ext.ops import sampling

RNG = np.random.default_rng(0)
BASIS = [RNG.normal(size=[2, *size, 2]) for size in ((4, 6), (2, 3), (1, 2))]
MIX = 0.25 * RNG.normal(size=[3, 2, 2])


def _linear_problem():
  matrices = RNG.normal(size=[3, 8, 8])
  radius = np.max(abs(np.linalg.eigvals(matrices)), axis=1)
  return 0.9 * matrices / radius[:, None, None], RNG.normal(size=[3, 8])


MATRICES, OFFSETS = _linear_problem()
LINEAR = np.stack([np.linalg.solve(np.eye(8) - a, b) for a, b in zip(MATRICES, OFFSETS)])


def basis(dtype=tf.float64):
  """Returns the inputs that `pyramid` adds to its levels."""
  return [tf.constant(level, dtype) for level in BASIS]


def linear(levels):
  """An affine map of each image, whose 8 numbers lie in two levels; no two images alike."""
  flat = tf.concat([tf.reshape(level, [-1, 4]) for level in levels], axis=1)
  result = tf.linalg.matvec(tf.constant(MATRICES, flat.dtype), flat)
  result += tf.constant(OFFSETS, flat.dtype)
  return [tf.reshape(half, [-1, 2, 1, 2]) for half in tf.split(result, 2, axis=1)]


def cosine(levels):
  return [tf.cos(level) for level in levels]


def pyramid(levels, mix=None, inputs=None):
  """Three levels, each a function of itself and its neighbors."""
  mix = [tf.cast(m, levels[0].dtype) for m in (MIX if mix is None else tf.unstack(mix))]
  inputs = [tf.cast(b, levels[0].dtype) for b in (BASIS if inputs is None else inputs)]
  results = []
  for i, level in enumerate(levels):
    total = tf.einsum('bhwc,cd->bhwd', level, mix[0]) + inputs[i]
    if i + 1 < len(levels):
      total += tf.einsum('bhwc,cd->bhwd', sampling.resize_nearest(levels[i + 1], level), mix[1])
    if i:
      total += tf.einsum('bhwc,cd->bhwd', sampling.resize_nearest(levels[i - 1], level), mix[2])
    results.append(tf.tanh(total))
  return results


def zeros(shapes, dtype=tf.float64):
  return [tf.zeros(shape, dtype) for shape in shapes]


def start(dtype=tf.float64):
  """Returns a state of zeros for `pyramid`."""
  return zeros([level.shape for level in BASIS], dtype)


def repeated(function, times):
  """Returns the function applied so many times, in a loop that keeps the graph small."""
  return lambda levels: tf.while_loop(
      lambda count, _: count < times, lambda count, x: (count + 1, function(x)),
      (tf.constant(0), levels))[1]


@functools.lru_cache(None)
def _pyramid_solution():
  state = zeros([b.shape for b in BASIS])
  step = tf.function(pyramid, autograph=False)
  for _ in range(400):
    state = step(state)
  return [level.numpy() for level in state]


PROBLEMS = {
    'linear': (linear, [[3, 2, 1, 2]] * 2,
               lambda: [h.reshape(3, 2, 1, 2) for h in np.split(LINEAR, 2, axis=1)]),
    'cosine': (cosine, [[2, 3, 1, 1]], lambda: [np.full([2, 3, 1, 1], 0.7390851332151607)]),
    'pyramid': (pyramid, [b.shape for b in BASIS], _pyramid_solution),
}


def residual(function, state):
  """Returns the relative residual of every image, in NumPy."""
  outputs = [level.numpy().astype(np.float64) for level in function(state)]
  state = [level.numpy().astype(np.float64) for level in state]
  flat = [np.concatenate([level.reshape(len(level), -1) for level in levels], 1)
          for levels in (outputs, state)]
  length = np.maximum(np.linalg.norm(flat[0], axis=1), np.finfo(np.float64).tiny)
  return np.linalg.norm(flat[0] - flat[1], axis=1) / length


def flat(levels):
  return np.concatenate([np.reshape(level, [len(level), -1]) for level in levels], axis=1)


def spied(function, seen):
  """Returns a function that appends its argument to the list `seen`, as `[batch, numbers]`."""
  def spy(levels):
    seen.append(flat([level.numpy() for level in levels]))
    return function(levels)
  return spy
