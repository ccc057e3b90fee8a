"""How the kernels of branches start of which a gate selects one."""
from typing import Any

import tensorflow as tf, tf_keras


@tf_keras.utils.register_keras_serializable(package='official_ext')
class AlikeBranches(tf_keras.initializers.Initializer):
  """Draws kernels that are nearly the same 1x1 kernel, whatever their size.

  A kernel is sqrt(1 - own_share) times a 1x1 kernel of Glorot's variance, in its center, plus one
  of its own size and `own_share` of Glorot's variance.  Branches with the same seed so begin as one
  lateral of FPN, whichever of them a gate selects, and learn to differ.  A share of 1 is Glorot's
  initializer, and all branches differ from the start.
  """

  def __init__(self, own_share: float, seed: int):
    """Initializes the initializer.

    Args:
      own_share: share of Glorot's variance that is drawn for a branch alone, above 0; above 1
        nothing is common.
      seed: of the common kernel; branches that begin alike have the same.
    """
    self._own_share, self._seed = own_share, seed

  def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
    """Returns a kernel `[size, size, channels, filters]` of odd size."""
    size, _, channels, filters = shape
    own = tf_keras.initializers.VarianceScaling(self._own_share, 'fan_avg', 'uniform')
    common = tf_keras.initializers.VarianceScaling(1.0, 'fan_avg', 'uniform', seed=self._seed)
    center = max(0.0, 1 - self._own_share)**0.5 * common([1, 1, channels, filters], dtype)
    margin = [(size - 1) // 2] * 2
    return own(shape, dtype) + tf.pad(center, [margin, margin, [0, 0], [0, 0]])

  def get_config(self) -> dict[str, Any]:
    return {'own_share': self._own_share, 'seed': self._seed}
