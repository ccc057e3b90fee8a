"""How much gates tell about images: a reward for decisions that are sure, and differ by image.

References: Andreas Krause, Pietro Perona and Ryan Gomes, Discriminative Clustering by Regularized
Information Maximization, NIPS 2010, section 3; Emmanuel Bengio et al., Conditional Computation in
Neural Networks for Faster Models, https://arxiv.org/abs/1511.06297, section 3.2, whose regularizers
over a batch want the same of the units of a network.
"""
from collections.abc import Iterator, Mapping

import tensorflow as tf

from official_ext.losses import path_similarity
from official_ext.ops import routing


def information(records: Mapping[str, routing.Routing]) -> tf.Tensor:
  """Returns the mutual information of image and gate, the mean over gates.

      entropy(mean over images of p) - mean over images of entropy(p)

  p are the probabilities of what a gate decides: those that a choice is sampled from, a gate itself
  otherwise, and for a gate per position the mean over the map.  The images are those of all
  replicas.  It is 0 where a gate is alike for all images, or where there is one image, and the
  logarithm of 2 where a gate surely opens for half of the images and surely shuts for the others.

  Args:
    records: name of a layer -> what it recorded; those without gates do not count.

  Returns:
    A float32 scalar in nats, not negative but for rounding.

  Raises:
    ValueError: no record has a gate.
  """
  found = []
  for record in records.values():
    for probabilities in _distributions(record):
      images = path_similarity.gather_replicas(probabilities)
      found.append(_entropy(tf.reduce_mean(images, 0)) - tf.reduce_mean(_entropy(images)))
  if not found:
    raise ValueError('No layer recorded a gate.')
  return tf.add_n(found) / len(found)


def _distributions(record: routing.Routing) -> Iterator[tf.Tensor]:
  """Yields the probabilities of what each gate decides: float32 `[batch, decisions]`."""
  for name, gate in record.gates.items():
    value = record.probabilities.get(name, gate)
    if routing.is_per_position(value):
      value = tf.reduce_mean(value, [1, 2, 3])
    if value.shape.rank == 1:
      value = tf.stack([1 - value, value], axis=1)
    yield value


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
  """Returns the entropy over the last axis in nats; its gradient is finite where one is 0."""
  # Rounding may have moved 1 minus a probability below 0.
  probabilities = tf.maximum(probabilities, 0.0)
  return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)
