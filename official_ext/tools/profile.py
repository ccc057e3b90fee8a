"""Tells what a detector costs: parameters and multiply-adds by part, and latency.

Multiply-adds are those of the whole network for one image, in 10^9 (GMAC): `static` is what
no gate can save, `minimum` and `maximum` are with every gate shut and open, `mean` is measured
over --data.  The network runs in float32, whatever precision the experiment trains in.
"""
import argparse
import itertools
import json
import pathlib
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_EPILOG = """example:
  python -m official_ext.tools.profile --experiment=retinanet_dyfpn_efficientnetlite0_sample \\
    --checkpoint_path=runs/dyfpn --data='runs/sample/records/val-*.tfrecord' --json=cost.json"""

_GIGA = 1e9
_IMAGES = ('.bmp', '.jpeg', '.jpg', '.png')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.profile', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser)
  parser.add_argument('--image_size', type=argument_types.image_size, metavar='H,W',
                      help='height and width in pixels, padding included; default: '
                      "the experiment's")
  parser.add_argument('--data', metavar='PATTERN',
                      help='images or TFRecords to measure the mean over: a folder or a glob; '
                      'default: one synthetic image')
  parser.add_argument('--checkpoint_path', metavar='PATH',
                      help='trained weights: a checkpoint or the folder of a training; without '
                      'them gates decide at random and only the bounds mean something')
  parser.add_argument('--saved_model', metavar='DIR',
                      help='time this export, of input type image_tensor, resizing included')
  parser.add_argument('--batch_size', type=argument_types.positive_int, default=1, metavar='N',
                      help='images per run; default 1')
  parser.add_argument('--num_runs', type=argument_types.positive_int, default=20, metavar='N',
                      help='timed runs, after a warm-up; default 20')
  parser.add_argument('--diagnose', action='store_true',
                      help='also measure what costs as much as the network, such as the spectral '
                      "radius of an implicit pyramid's map")
  parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
  return parser.parse_args()


def count_parameters(model: Any) -> Dict[str, int]:
  """Counts the parameters of a detector as papers do.

  Frozen parameters and the affine part of batch norm are counted; what training never
  learns, such as moving statistics and noise counters, is not.

  Args:
    model: has `backbone` and `decoder`, which may be None.

  Returns:
    Counts of `backbone`, `decoder`, `head` (all else) and `total`.
  """

  def learnable(part):
    # Not `trainable_variables`: freezing a layer leaves its variables' own mark as it was.
    return {variable.ref(): variable for variable in (part.variables if part else ())
            if variable.trainable}

  def count(variables):
    return sum(variable.shape.num_elements() for variable in variables.values())

  parts = {'backbone': learnable(model.backbone), 'decoder': learnable(model.decoder)}
  counts = {name: count(variables) for name, variables in parts.items()}
  total = count(learnable(model))
  return {**counts, 'head': total - sum(counts.values()), 'total': total}


def build_model(params: Any, checkpoint_path: Optional[str]) -> Any:
  """Builds the detector of an experiment, with trained weights if a checkpoint is given."""
  # pylint: disable=g-import-not-at-top
  from official.core import task_factory
  from official.vision.configs import maskrcnn
  from official.vision.configs import retinanet

  from official_ext.utils import checkpoints
  if not isinstance(params.task, (retinanet.RetinaNetTask, maskrcnn.MaskRCNNTask)):
    raise command_line.CommandError(
        f'--experiment trains {type(params.task).__name__}; profile knows RetinaNet, FCOS, ATSS, '
        'and Faster, Mask and Cascade R-CNN: show_config --all lists the experiments.')
  experiment.build_decoder(params.task.model)
  model = task_factory.get_task(params.task).build_model()
  if checkpoint_path:
    checkpoints.restore(model, checkpoint_path)
  return model


def _encoded_images(data: str) -> Tuple[Iterator[Tuple[str, bytes]], int]:
  """Returns names and contents of the image files or records of a folder or glob, and how many."""
  # pylint: disable=g-import-not-at-top
  from official_ext.utils import input_checks
  import tensorflow as tf
  folder = pathlib.Path(data)
  if folder.is_dir():
    found = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
    data = str(folder / '*.tfrecord*')
  else:
    found = [path for path in input_checks.matching_files(data, '--data')
             if path.lower().endswith(_IMAGES)]
  if found:
    return ((path, pathlib.Path(path).read_bytes()) for path in found), len(found)
  records = tf.data.TFRecordDataset(input_checks.check_records(data, '--data'))
  spec = {'image/encoded': tf.io.FixedLenFeature([], tf.string, '')}
  total = sum(1 for _ in records)

  def images():
    for index, record in enumerate(records.as_numpy_iterator()):
      yield f'record {index} of {data}', tf.io.parse_single_example(
          record, spec)['image/encoded'].numpy()

  return images(), total


def _decoded_images(data: Optional[str], size: Sequence[int]) -> Tuple[Iterator[Any], int]:
  """Returns uint8 images `[height, width, 3]` and how many; one synthetic image without data."""
  # pylint: disable=g-import-not-at-top
  import numpy as np
  import tensorflow as tf
  if not data:
    return iter([np.random.default_rng(0).integers(0, 256, [*size, 3], np.uint8)]), 1
  encoded, total = _encoded_images(data)
  if not total:
    raise command_line.CommandError(f'--data={data} holds no image.')

  def images():
    for name, content in encoded:
      try:
        yield tf.io.decode_image(content, channels=3, expand_animations=False).numpy()
      except tf.errors.InvalidArgumentError as error:
        raise command_line.CommandError(
            f'--data: {name} is no image that can be read (JPEG, PNG or BMP): check_dataset lists '
            'all such files.') from error

  return images(), total


def _batches(images: Iterable[Any], size: int) -> Iterator[List[Any]]:
  images = iter(images)
  return iter(lambda: list(itertools.islice(images, size)), [])


def profile(arguments: argparse.Namespace) -> Dict[str, Any]:
  """Builds, counts and runs the detector that the arguments of the command name.

  Returns:
    The figures as `--json` writes them.

  Raises:
    CommandError: something given does not exist or does not fit.
  """
  # pylint: disable=g-import-not-at-top
  import numpy as np

  from official_ext.modeling.layers import routed
  from official_ext.serving import detector_runs
  from official_ext.modeling import network_cost
  params = experiment.resolve(
      arguments.experiment, arguments.config_file, arguments.params_override, lock=False)
  if arguments.image_size and hasattr(params.task.model, 'input_size'):
    params.task.model.input_size = [*arguments.image_size, 3]
  model = build_model(params, arguments.checkpoint_path)
  size = tuple(params.task.model.input_size[:2])
  images, total = _decoded_images(arguments.data, size)
  first = list(itertools.islice(images, arguments.batch_size * arguments.num_runs))
  keep_aspect_ratio = getattr(params.task.train_data.parser, 'keep_aspect_ratio', True)
  in_memory = detector_runs.InMemory(model, size, keep_aspect_ratio, arguments.diagnose)
  cost = network_cost.whole_network_cost(model, size)
  seen = []
  if routed.routed_layers(model):
    everything = command_line.progress(itertools.chain(first, images), 'measuring images', total)
    for batch in _batches(everything, arguments.batch_size):
      seen.append(in_memory.measures(batch))
  measures = {name: float(np.mean(np.concatenate([part[name] for part in seen])))
              for name in (seen[0] if seen else {})}
  timed = in_memory
  if arguments.saved_model:
    timed = detector_runs.Exported(arguments.saved_model)
  p50, p95 = np.percentile(detector_runs.latency(
      timed, first, arguments.batch_size, arguments.num_runs), [50, 95])
  gmac = {'static': cost.static, 'minimum': cost.minimum, 'maximum': cost.maximum,
          'mean': cost.static + measures.pop('executed', 0.0)}
  return {
      'experiment': arguments.experiment,
      'image_size': list(size),
      'images': total,
      'is_trained': bool(arguments.checkpoint_path),
      'batch_size': arguments.batch_size,
      'parameters': count_parameters(model),
      'gmac': {name: value / _GIGA for name, value in gmac.items()},
      'gmac_maximum_by_part': {
          part: value / _GIGA for part, value in cost.maximum_by_part.items()},
      'measures': measures,
      'latency_ms': {'p50': p50 * 1000, 'p95': p95 * 1000},
  }


def _say(figures: Dict[str, Any], arguments: argparse.Namespace) -> None:
  """Prints the figures as a table."""
  height, width = figures['image_size']
  command_line.say(f'{figures["experiment"]}, images of {height} x {width} pixels, float32')
  rows = {'parameters (10^6)': {
      part: count / 1e6 for part, count in figures['parameters'].items()}}
  by_part = figures['gmac_maximum_by_part']
  rows['maximum (GMAC)'] = {**by_part, 'total': figures['gmac']['maximum']}
  command_line.say(f'{"":18}' + ''.join(f'{part:>12}' for part in rows['maximum (GMAC)']))
  for name, row in rows.items():
    command_line.say(f'{name:18}' + ''.join(f'{row[part]:12.3f}' for part in row))
  weights = '' if figures['is_trained'] else ', untrained weights'
  source = f'{figures["images"]} images' if arguments.data else 'a synthetic image'
  command_line.say(
      'whole network, GMAC per image: ' + ', '.join(
          f'{name} {value:.3f}' for name, value in figures['gmac'].items()) +
      f' (mean over {source}{weights})')
  if figures['measures']:
    command_line.say(f'measures, mean over {source}{weights}: ' + ', '.join(
        f'{name} {value:.3g}' for name, value in figures['measures'].items()))
  latency = figures['latency_ms']
  command_line.say(
      f'latency, batch of {figures["batch_size"]}: p50 {latency["p50"]:.1f} ms, '
      f'p95 {latency["p95"]:.1f} ms ({arguments.num_runs} runs)')


def main() -> None:
  """Profiles a detector."""
  arguments = _arguments()
  from official_ext import registry_imports  # pylint: disable=g-import-not-at-top,unused-import
  experiment.import_modules(arguments.imports)
  figures = profile(arguments)
  _say(figures, arguments)
  if arguments.json:
    with files.atomic_file(arguments.json) as path:
      path.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  command_line.run(main)
