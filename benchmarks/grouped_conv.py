"""Times grouped 3x3 convolutions of ResNeXt: TensorFlow's, and one dense convolution instead.

    .venv/bin/python benchmarks/grouped_conv.py [--threads=1] [--repeats=7]

The dense kernel has the groups as blocks on its diagonal and zeros elsewhere, so that it gives the
same numbers by as many times the multiply-adds as there are groups.  The maps are those of an image
of 512 pixels; all take turns in one process.  Figures are medians, as multiples of the grouped
convolution's forward time; `refused` is an operation that TensorFlow has not on this machine.
"""
import argparse
import statistics
import time

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import tensorflow as tf

# Network and stage -> side of the map, channels, groups.
CASES = {
    '50-32x4d C2': (128, 128, 32), '50-32x4d C3': (64, 256, 32), '50-32x4d C4': (32, 512, 32),
    '50-32x4d C5': (16, 1024, 32), '101-64x4d C4': (32, 1024, 64)}


def grouped(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Returns TensorFlow's grouped convolution, whose groups follow from the kernel."""
  return tf.nn.conv2d(features, kernel, 1, 'SAME')


def dense(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Returns the same by a kernel with blocks on its diagonal."""
  height, width, depth, filters = kernel.shape
  groups = features.shape[-1] // depth
  blocks = tf.reshape(kernel, [height, width, 1, depth, groups, filters // groups])
  mask = tf.reshape(tf.eye(groups), [1, 1, groups, 1, groups, 1])
  return tf.nn.conv2d(
      features, tf.reshape(mask * blocks, [height, width, groups * depth, filters]), 1, 'SAME')


def main() -> None:
  """Times and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  print('| convolution | grouped, training | dense, forward | dense, training |')
  print('|---|---:|---:|---:|')
  for name, (side, channels, groups) in CASES.items():
    inputs = [tf.random.normal([1, side, side, channels]),
              tf.random.normal([3, 3, channels // groups, channels])]
    calls = {}
    for function in (grouped, dense):
      for mode, wrapped in (('forward', function), ('training', graphs.with_gradients(function))):
        call = graphs.traced(wrapped, *inputs)
        try:
          call(*inputs)
        except tf.errors.OpError:
          continue
        calls[function.__name__, mode] = call
    times = {key: [] for key in calls}
    for _ in range(args.repeats):
      for key, call in calls.items():
        start = time.perf_counter()
        call(*inputs)
        times[key].append(time.perf_counter() - start)
    first = statistics.median(times['grouped', 'forward'])
    row = [f'{statistics.median(times[key]) / first:.1f}' if key in times else 'refused'
           for key in (('grouped', 'training'), ('dense', 'forward'), ('dense', 'training'))]
    print(f'| {name} | {" | ".join(row)} |')


if __name__ == '__main__':
  main()
