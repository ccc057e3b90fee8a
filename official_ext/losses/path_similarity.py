"""Path similarity of CADDet: images with objects of like scales should take like paths.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.3, eqs. 5-7.
"""
import tensorflow as tf

from official_ext.ops import checks


def check_range(argument: str, minimum: float, maximum: float) -> None:
  """Checks a range of wanted similarities.

  Args:
    argument: name of `minimum` in the error.
    minimum: wanted similarity of the paths of images that have no scale alike.
    maximum: wanted similarity where all scales are alike.

  Raises:
    ArgumentError: unless `0 <= minimum <= maximum <= 1`.
  """
  if not 0 <= minimum <= maximum <= 1:
    raise checks.ArgumentError(
        argument, f'{argument} is {minimum} and the maximum {maximum}; allowed are two numbers '
        'that ascend within 0 and 1.')


def path_similarities(paths: tf.Tensor) -> tf.Tensor:
  """Returns how alike the paths of images are: the cosine of the angle between their gates.

  Args:
    paths: `[images, gates]`, in [0, 1].

  Returns:
    float32 `[images, images]`; 0 for every pair with an image whose gates are all shut.
  """
  paths = tf.cast(paths, tf.float32)
  dots = tf.matmul(paths, paths, transpose_b=True)
  # A root of the diagonal of `dots` would have an infinite gradient at 0.
  norms = tf.sqrt(tf.reduce_sum(tf.square(paths), axis=1) + 1e-24)
  return dots / (norms[:, None] * norms + 1e-12)


def scale_similarities(presence: tf.Tensor) -> tf.Tensor:
  """Returns how alike the scales of images are: the share of scales that both or neither have.

  Args:
    presence: `[images, scales]` of 0 and 1.

  Returns:
    float32 `[images, images]`.
  """
  return 1 - tf.reduce_mean(tf.abs(presence[:, None] - presence), axis=-1)


def loss(paths: tf.Tensor, presence: tf.Tensor, minimum: float = 0.6,
         maximum: float = 0.95) -> tf.Tensor:
  """Returns how far paths are from being as alike as scales are (eqs. 5-7).

  Args:
    paths: `[images, gates]`, soft gates, 0 where shut.
    presence: `[images, scales]` of 0 and 1.
    minimum: wanted similarity of the paths of images that have no scale alike.
    maximum: wanted similarity where all scales are alike.

  Returns:
    A float32 scalar: the sum of squared differences over pairs, divided by the number of
    images (the paper's 1/B; there are B(B-1)/2 pairs); 0 for one image.

  Raises:
    ArgumentError: `minimum` and `maximum` do not ascend within 0 and 1.
  """
  check_range('minimum', minimum, maximum)
  wanted = minimum + (maximum - minimum) * scale_similarities(presence)
  differences = tf.square(path_similarities(paths) - wanted)
  num_images = tf.shape(paths)[0]
  pairs = tf.linalg.set_diag(differences, tf.zeros([num_images])) / 2
  return tf.math.divide_no_nan(tf.reduce_sum(pairs), tf.cast(num_images, tf.float32))


def gather_replicas(values: tf.Tensor) -> tf.Tensor:
  """Returns the rows of all replicas; differentiable, and `values` itself with one replica.

  A loss of the result is the same on every replica.  Model Garden divides every loss by the
  number of replicas and sums the gradients, which gives the gradient of one device with all
  rows.

  Args:
    values: `[batch, ...]`, rows of this replica.

  Returns:
    `[global batch, ...]`.
  """
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return values
  return context.all_gather(values, axis=0)
