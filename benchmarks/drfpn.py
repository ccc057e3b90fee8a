"""Times DRFPN's sampling and neck: medians of ratios, interleaved in one run.

    .venv/bin/python benchmarks/drfpn.py [--image_size 320] [--repeats 15]

Machines are noisy: only ratios within one run mean something.
"""
import argparse
import functools

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import tensorflow as tf

from official_ext import registry_imports
from official_ext.modeling.decoders import drfpn
from official_ext.ops import sampling
from official_ext.utils import command_line
from official_ext.utils import timing

CHANNELS = {'3': 512, '4': 1024, '5': 2048}


def ratios(functions, base: str, repeats: int):
  """Returns the time of every function as a multiple of that of `base`."""
  # Some functions take less than a turn of the processor's scheduler.
  seconds = timing.interleaved(functions, repeats, calls=3)
  return {name: timing.median_ratio(seconds, name, base) for name in seconds}


def _traced(function, *args, compiled=False):
  """Returns a call of the traced function with these arguments."""
  return functools.partial(graphs.traced(function, *args, compiled=compiled), *args)


def benchmark_sampling(batch: int, height: int, width: int, channels: int, repeats: int) -> None:
  """Prints the time of sampling and resizing as multiples of `tf.image.resize`.

  Args:
    batch: images.
    height: of the map that is sampled; the result is twice as high and wide.
    width: of the map.
    channels: of the map.
    repeats: interleaved repeats.
  """
  features = tf.random.stateless_normal([batch, height, width, channels], [0, 1])
  size = (2 * height, 2 * width)
  noise = 0.5 * tf.random.stateless_normal([batch, *size, 2], [0, 2])
  target = noise[..., :1]
  positions = sampling.aligned_grid(features, target) + noise
  calls = {
      'resize': lambda x, p: tf.image.resize(x, size),
      'sample_bilinear': lambda x, p: sampling.sample_bilinear(x, p),
      'resize_bilinear': lambda x, p: sampling.resize_bilinear(x, target),
  }
  command_line.say(f'\n{batch}x{height}x{width}x{channels} to {size[0]}x{size[1]}, as multiples of '
                   'tf.image.resize in a graph:')
  for title, wrap in (('forward', lambda function: function),
                      ('forward and gradients', graphs.with_gradients)):
    functions = {name: _traced(wrap(call), features, positions) for name, call in calls.items()}
    for name in ('sample_bilinear', 'resize_bilinear'):
      functions[f'{name}, compiled'] = _traced(
          wrap(calls[name]), features, positions, compiled=True)
    for name, ratio in ratios(functions, 'resize', repeats).items():
      command_line.say(f'  {title}, {name}: {ratio:.2f}')


def benchmark_necks(image_size: int, repeats: int) -> None:
  """Prints the time of DRFPN, with and without its context module, as a multiple of FPN's.

  Args:
    image_size: side in pixels.
    repeats: interleaved repeats.
  """
  features = {level: tf.random.stateless_normal(
      [1, image_size >> int(level), image_size >> int(level), channels], [0, int(level)])
      for level, channels in CHANNELS.items()}
  options = {'input_specs': {level: value.shape for level, value in features.items()},
             'min_level': 3, 'max_level': 7, 'norm': 'none'}
  necks = {
      'FPN': drfpn.DRFPN(top_down='fpn', bottom_up='none', context='none', **options),
      'DRFPN without context': drfpn.DRFPN(context='none', **options),
      'DRFPN': drfpn.DRFPN(**options),
  }

  def inference(neck):
    return _traced(lambda inputs: neck(inputs, training=False), features)

  def training(neck):

    def step(inputs):
      with tf.GradientTape() as tape:
        outputs = neck(inputs, training=True)
        loss = tf.add_n([tf.reduce_mean(tf.square(x)) for x in outputs.values()])
      return tape.gradient(loss, neck.trainable_variables)

    return _traced(step, features)

  command_line.say(f'\n{image_size} pixels, levels 3-5 (512, 1024, 2048 channels), as multiples of '
                   'the FPN neck:')
  for neck in necks.values():
    neck(features)
  for title, make in (('inference', inference), ('forward and gradients', training)):
    times = ratios({name: make(neck) for name, neck in necks.items()}, 'FPN', repeats)
    for name, ratio in times.items():
      command_line.say(f'  {title}, {name}: {ratio:.2f}')


def main() -> None:
  """Runs all benchmarks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, default=320, help='side in pixels (320)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  args = parser.parse_args()
  for size in ((1, 20, 20, 256), (1, 50, 84, 256), (4, 20, 20, 256)):
    benchmark_sampling(*size, args.repeats)
  benchmark_necks(args.image_size, args.repeats)


if __name__ == '__main__':
  command_line.run(main)
