"""The images of the first training step whose loss is not finite, or else of the last step."""
from collections.abc import Iterable

from google.protobuf import message
import tensorflow as tf

from official_ext.dataloaders import dense_input
from official_ext.datasets import findings
from official_ext.datasets.records import example_checks
from official_ext.datasets.records import record_decoding

_RECORDS_AT_ONCE = 256


class LastBatch:
  """Keeps the image hashes of a step on each replica, in a variable that no checkpoint holds."""

  def __init__(self, batch_size: int):
    """Initializes the batch; called in the strategy's scope.

    Args:
      batch_size: number of images of a replica.
    """
    # The hashes, and at the end the number of the step if its loss was not finite, else 0.
    self._state = tf.Variable(
        tf.zeros([batch_size + 1], tf.int64), trainable=False, name='last_batch',
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

  def update(self, hashes: tf.Tensor, loss: tf.Tensor, step: tf.Tensor) -> None:
    """Keeps a batch of the right size, unless one whose loss was not finite is kept already.

    Args:
      hashes: `dense_input.IMAGE_HASH` of the batch, int64 `[batch_size]`.
      loss: the loss of the batch.
      step: number of the step, from 1.
    """
    if hashes.shape[0] is None or hashes.shape[0] + 1 != self._state.shape[0]:
      return
    bad_step = tf.where(tf.math.is_finite(loss), tf.zeros([], tf.int64), tf.cast(step, tf.int64))
    state = self._state.read_value()
    new = tf.concat([hashes, bad_step[None]], 0)
    self._state.assign(tf.where(state[-1] > 0, state, new))

  def read(self) -> tuple[int, set[int]]:
    """Returns the first step whose loss was not finite, 0 without one, and the hashes of images.

    The hashes are those of that step, or else of the last step, of all replicas of this process.
    """
    states = [state.numpy().tolist() for state in
              tf.distribute.get_strategy().experimental_local_results(self._state)]
    bad_steps = [state[-1] for state in states if state[-1]]
    step = min(bad_steps, default=0)
    return step, {value for state in states if state[-1] == step for value in state[:-1]}


def image_names(hashes: set[int], files: Iterable[str]) -> list[str]:
  """Returns the file names, or else the ids, of images.

  Args:
    hashes: of the ids of the images.
    files: TFRecord files that may hold them; read until all are found.
  """
  found: dict[int, str] = {}
  for file in files:
    for ids, names in _batches(file):
      for value, name in zip(dense_input.image_hash(tf.constant(ids)).numpy().tolist(), names):
        if value in hashes:
          found.setdefault(value, name)
      if len(found) == len(hashes):
        return sorted(found.values())
  return sorted(found.values())


def _batches(file: str) -> Iterable[tuple[list[str], list[str]]]:
  """Yields ids and names of some records at a time, up to the first one that cannot be read."""
  ids: list[str] = []
  names: list[str] = []
  try:
    for record in record_decoding.records_in_order(file):
      features = tf.train.Example.FromString(record).features.feature
      ids.append(example_checks.image_id(features))
      names.append(example_checks.image_name(features) or ids[-1])
      if len(ids) == _RECORDS_AT_ONCE:
        yield ids, names
        ids, names = [], []
  except (findings.UnusableError, message.DecodeError):
    # The names of the other images help all the same.
    pass
  if ids:
    yield ids, names
