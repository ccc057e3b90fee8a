"""The distribution strategy of an experiment, for devices that are there."""
from typing import Any

from official.common import distribute_utils
import tensorflow as tf

from official_ext.utils import command_line

_STRATEGIES = ('off', 'one_device', 'mirrored', 'multi_worker_mirrored', 'parameter_server', 'tpu')


def strategy(runtime: Any) -> tf.distribute.Strategy:
  """Returns the strategy of an experiment; nothing may have run an operation before.

  Model Garden makes one of GPUs that are not there too, whose replicas wait for each other forever.

  Args:
    runtime: `runtime` of the experiment.

  Raises:
    CommandError: an unknown strategy, options that it does not take, more GPUs than there are, or
      a TPU that cannot be reached.
  """
  name = str(runtime.distribution_strategy).lower()
  if name not in _STRATEGIES:
    raise command_line.CommandError(
        f'runtime.distribution_strategy is {runtime.distribution_strategy!r}; allowed are '
        f'{", ".join(_STRATEGIES)}.')
  num_found = len(tf.config.list_physical_devices('GPU'))
  if name != 'tpu' and runtime.num_gpus > num_found:
    raise command_line.CommandError(
        f'runtime.num_gpus is {runtime.num_gpus}, but TensorFlow sees {num_found} GPUs: look at '
        'their drivers and CUDA_VISIBLE_DEVICES, or set runtime.num_gpus=0 for the CPU.')
  try:
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=name, all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus, tpu_address=runtime.tpu)
  except (OSError, ValueError, tf.errors.OpError) as error:
    tpu = f' and runtime.tpu {runtime.tpu!r}' if name == 'tpu' else ''
    raise command_line.CommandError(
        f'runtime.distribution_strategy is {name}{tpu}: {error}') from error
