"""Tells operations that an export will compute their convolutions another way.

An export computes large convolutions with fewer multiplications (`winograd_conv`) after the graph
is traced.  Operations that choose between a convolution and another way have to know it before.
"""
from collections.abc import Iterator, Sequence
import contextlib
import math
import threading

import tensorflow as tf

from official_ext.ops import winograd_conv

# Name of what `weights_in_graph` adds to a graph.
WEIGHTS_SCOPE = 'winograd_weights'


class Expectation:
  """Collects what was traced in `expected`.

  Attributes:
    shares: what `saved_share` returned, if it was not 0.
    bytes: of all results of `weights_in_graph`.
  """

  def __init__(self):
    self.shares: list[float] = []
    self.bytes = 0


class _State(threading.local):
  """What `expected` gave; None: convolutions of a thread are computed as they are defined."""
  expectation: Expectation | None = None


_state = _State()


def weights_in_graph(kernel: tf.Tensor) -> tf.Tensor:
  """Transforms a kernel as `winograd_conv.weights` does, in a graph; exports make a constant of it.

  Args:
    kernel: float32 `[3, 3, channels, filters]`.

  Returns:
    float32 `[36, channels, filters]`.
  """
  tile = winograd_conv.THREE
  if _state.expectation is not None:
    _state.expectation.bytes += (
        tile.products * kernel.shape[2] * kernel.shape[3] * kernel.dtype.size)
  with tf.name_scope(WEIGHTS_SCOPE):
    result = tf.matmul(tf.constant(winograd_conv.kernel_transform(tile), tf.float32),
                       tf.reshape(kernel, [tile.kernel**2, -1]))
  return tf.reshape(result, [tile.products, *kernel.shape[2:]])


@contextlib.contextmanager
def expected() -> Iterator[Expectation]:
  """Says that convolutions traced in this thread will be computed so, as exports do it later.

  Operations that choose between a convolution and another way read it by `saved_share`.

  Yields:
    What is collected meanwhile.
  """
  before, _state.expectation = _state.expectation, Expectation()
  try:
    yield _state.expectation
  finally:
    _state.expectation = before


def saved_share(maps: Sequence[tf.Tensor]) -> float:
  """Returns the share of the time of convolutions with as many filters as channels that is saved.

  Args:
    maps: `[batch, height, width, channels]` each, with zeros around.

  Returns:
    0 outside of `expected`, and for maps of unknown size or of another dtype than float32.
  """
  if _state.expectation is None or any(
      None in x.shape[1:] or x.dtype != tf.float32 for x in maps):
    return 0.0
  sizes = [(x.shape[0] or 1, *x.shape[1:]) for x in maps]
  saved = sum(winograd_conv.saving(size, winograd_conv.Map(size[1], size[2], (1, 1)), size[3])
              for size in sizes)
  share = saved / sum(math.prod(size) * winograd_conv.THREE.kernel**2 * size[3] for size in sizes)
  if share:
    _state.expectation.shares.append(share)
  return share
