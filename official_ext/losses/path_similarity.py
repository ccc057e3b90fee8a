"""Path similarity of CADDet: images with objects of like scales should take like paths.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.3, eqs. 5-7.
"""
import tensorflow as tf


def check_range(minimum: float, maximum: float) -> None:
  """Raises a ValueError unless `0 <= minimum <= maximum <= 1`."""
  if not 0 <= minimum <= maximum <= 1:
    raise ValueError(f'path similarity is to lie between {minimum} and {maximum}; allowed are two '
                     'numbers that ascend within 0 and 1: change '
                     'task.budget.path_similarity.minimum and maximum.')


def path_similarities(paths: tf.Tensor) -> tf.Tensor:
  """Returns how alike the paths of images are: the cosine of the angle between their gates.

  Args:
    paths: `[images, gates]`, in [0, 1].

  Returns:
    float32 `[images, images]`; 0 beside an image whose gates are all shut.
  """
  paths = tf.cast(paths, tf.float32)
  dots = tf.matmul(paths, paths, transpose_b=True)
  # Not of the diagonal of `dots`: the root has no gradient at 0.
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
    minimum: wanted similarity of paths where no scale is alike.
    maximum: wanted similarity where all are.

  Returns:
    A float32 scalar: the sum of squared differences over pairs, divided by the number of
    images (the paper's 1/B; there are B(B-1)/2 pairs); 0 for one image.

  Raises:
    ValueError: a wanted similarity that is no such range.
  """
  check_range(minimum, maximum)
  wanted = minimum + (maximum - minimum) * scale_similarities(presence)
  differences = tf.square(path_similarities(paths) - wanted)
  num_images = tf.shape(paths)[0]
  pairs = tf.linalg.set_diag(differences, tf.zeros([num_images])) / 2
  return tf.math.divide_no_nan(tf.reduce_sum(pairs), tf.cast(num_images, tf.float32))


def gather_replicas(values: tf.Tensor) -> tf.Tensor:
  """Returns the rows of all replicas, of which there may be one; differentiable.

  A loss made of the result is the same on every replica; divided by their number, as Model
  Garden divides every loss, its gradient summed over replicas is that of one device.

  Args:
    values: `[batch, ...]`.

  Returns:
    `[global batch, ...]`.
  """
  context = tf.distribute.get_replica_context()
  if context is None or context.num_replicas_in_sync == 1:
    return values
  return context.all_gather(values, axis=0)
