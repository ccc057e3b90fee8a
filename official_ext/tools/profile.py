"""Prints what a detector costs: parameters and multiply-adds by part, and latency.

Multiply-adds are those of the whole network for one image, in 10^9 (GMAC): `static` is what
no gate can save, `minimum` and `maximum` are with every gate shut and open, `mean` is measured
over --data.  The network always runs in float32.
"""
import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
import json
import pathlib
from typing import Any

from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_EPILOG = """example:
  python -m official_ext.tools.profile --experiment=retinanet_dyfpn_efficientnetlite0_sample \\
    --checkpoint_path=runs/dyfpn --data='runs/sample/records/val-*.tfrecord' --json=cost.json"""

_GIGA = 1e9


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
                      help='include metrics that cost as much as the network, such as the spectral '
                      "radius of an implicit pyramid's map")
  parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
  return parser.parse_args()


def count_parameters(model: Any) -> dict[str, int]:
  """Counts the parameters of a detector as papers do.

  Frozen parameters and the affine part of batch norm are counted.  Variables that training never
  learns, such as moving statistics and noise counters, are not.

  Args:
    model: a detector with `backbone` and `decoder`; the decoder may be None.

  Returns:
    Number of parameters of `backbone`, `decoder`, `head` (everything else) and `total`.
  """

  def learnable(layer):
    # Not `trainable_variables`: a frozen layer has none, but its variables stay trainable.
    return {variable.ref(): variable for variable in (layer.variables if layer else ())
            if variable.trainable}

  def count(variables):
    return sum(variable.shape.num_elements() for variable in variables.values())

  counts = {'backbone': count(learnable(model.backbone)),
            'decoder': count(learnable(model.decoder))}
  total = count(learnable(model))
  return {**counts, 'head': total - sum(counts.values()), 'total': total}


def build_model(params: Any, checkpoint_path: str | None) -> Any:
  """Builds the detector of an experiment, with trained weights if a checkpoint is given.

  Args:
    params: the resolved experiment.
    checkpoint_path: a checkpoint, or the folder of a training; None: initial weights.

  Raises:
    CommandError: not a detector, options that do not fit, or a checkpoint that does not fit.
  """
  from official_ext.serving import detection
  detection.check_detector(params.task)
  experiment.build_decoder(params.task.model)
  return detection.build_model(params, checkpoint_path)


def _image_files(data: str) -> list[pathlib.Path]:
  """Returns the images of a folder or glob."""
  from official_ext.datasets.images import image_files
  from official_ext.utils import input_checks
  folder = pathlib.Path(data)
  paths = sorted(folder.iterdir()) if folder.is_dir() else map(
      pathlib.Path, input_checks.matching_files(data, '--data'))
  return [path for path in paths if image_files.is_image_name(pathlib.Path(path.name))]


def _read_files(paths: Sequence[pathlib.Path]) -> Iterator[Any]:
  from official_ext.datasets.images import image_reading
  reader = image_reading.ImageReader()
  return (_readable(str(path), reader.read, path).pixels for path in paths)


def _read_records(data: str) -> tuple[Iterator[Any], int]:
  """Returns the images of records, and how many there are."""
  from official_ext.datasets.images import image_decoding
  from official_ext.datasets.records import record_folder
  from official_ext.utils import input_checks
  import tensorflow as tf
  pattern = (record_folder.path_pattern(data, '*.tfrecord*') if pathlib.Path(data).is_dir()
             else data)
  records = tf.data.TFRecordDataset(input_checks.check_records(pattern, '--data'))
  spec = {'image/encoded': tf.io.FixedLenFeature([], tf.string, '')}

  def images() -> Iterator[Any]:
    for index, record in enumerate(records.as_numpy_iterator()):
      content = tf.io.parse_single_example(record, spec)['image/encoded'].numpy()
      yield _readable(f'record {index} of {pattern}', image_decoding.decode_record, content)

  return images(), sum(1 for _ in records)


def _readable(name: str, read: Callable[[Any], Any], source: Any) -> Any:
  """Returns `read(source)`; raises CommandError if that is no image that can be read."""
  from official_ext.datasets import findings
  try:
    return read(source)
  except findings.UnusableError as error:
    raise command_line.CommandError(
        f'--data: {name}: {error}: check_dataset lists all such files.') from error


def _decoded_images(data: str | None, size: Sequence[int]) -> tuple[Iterator[Any], int]:
  """Returns uint8 images `[height, width, 3]` and how many; one synthetic image without data."""
  import numpy as np
  if not data:
    return iter([np.random.default_rng(0).integers(0, 256, [*size, 3], np.uint8)]), 1
  paths = _image_files(data)
  images, total = (_read_files(paths), len(paths)) if paths else _read_records(data)
  if not total:
    raise command_line.CommandError(f'--data={data} holds no image.')
  return images, total


def _mean_metrics(detector: Any, images: Iterable[Any], batch_size: int) -> dict[str, float]:
  """Returns the mean over images of `executed`, in multiply-adds, and of all metrics."""
  import numpy as np
  images, records = iter(images), []
  while batch := list(itertools.islice(images, batch_size)):
    record = detector.decisions(batch)
    records.append({'executed': record.executed, **record.metrics})
  return {name: float(np.mean(np.concatenate([record[name] for record in records])))
          for name in records[0]}


def _latency(detector: Any, images: Sequence[Any], arguments: argparse.Namespace
             ) -> dict[str, float]:
  """Returns the percentiles `p50` and `p95` of a detector's latency, in milliseconds."""
  import numpy as np

  from official_ext.serving import detectors
  seconds = detectors.latency(detector, images, arguments.batch_size, arguments.num_runs)
  p50, p95 = np.percentile(seconds, [50, 95])
  return {'p50': p50 * 1000, 'p95': p95 * 1000}


def _build_detector(arguments: argparse.Namespace) -> Any:
  """Builds the detector in memory; it gets images of exactly the given size."""
  from official_ext.dataloaders import image_sizes
  from official_ext.serving import detection
  from official_ext.serving import detectors
  from official_ext.serving import export_modules
  params = experiment.resolve(
      arguments.experiment, arguments.config_file, arguments.params_override, lock=False)
  detection.check_detector(params.task)
  if arguments.image_size:
    if image_sizes.is_paper(params.task):
      params.task.resize.rule = 'garden'
    params.task.model.input_size = [*arguments.image_size, 3]
  model = build_model(params, arguments.checkpoint_path)
  if not image_sizes.is_paper(params.task):
    params.task.train_data.parser.pad = False  # The image size includes padding.
  return detectors.InMemoryDetector(export_modules.make_module(params, model), arguments.diagnose)


def _load_saved_model(path: str) -> Any:
  """Loads the SavedModel to be timed."""
  from official_ext.serving import detectors
  detector = detectors.SavedDetector(path)
  if detector.input_type != 'image_tensor':
    raise command_line.CommandError(
        f'--saved_model={path} takes {detector.input_type}, not images: export it with '
        '--input_type=image_tensor.')
  return detector


def profile(arguments: argparse.Namespace) -> dict[str, Any]:
  """Builds, counts and runs a detector.

  Args:
    arguments: arguments of the command line.

  Returns:
    The figures as `--json` writes them.

  Raises:
    CommandError: a file or folder does not exist, or does not fit the experiment.
  """
  from official_ext.modeling.layers import routed
  saved = _load_saved_model(arguments.saved_model) if arguments.saved_model else None
  in_memory = _build_detector(arguments)
  model, size = in_memory.module.model, in_memory.module.image_size
  images, total = _decoded_images(arguments.data, size)
  first = list(itertools.islice(images, arguments.batch_size * arguments.num_runs))
  metrics = {}
  if routed.routed_layers(model):
    everything = command_line.progress(itertools.chain(first, images), 'measuring images', total)
    metrics = _mean_metrics(in_memory, everything, arguments.batch_size)
  cost = in_memory.module.cost
  gmac = {'static': cost.static, 'minimum': cost.minimum, 'maximum': cost.maximum,
          'mean': cost.static + metrics.pop('executed', 0.0)}
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
      'metrics': metrics,
      'latency_ms': _latency(saved or in_memory, first, arguments),
  }


def _say(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
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
  if figures['metrics']:
    command_line.say(f'metrics, mean over {source}{weights}: ' + ', '.join(
        f'{name} {value:.3g}' for name, value in figures['metrics'].items()))
  latency = figures['latency_ms']
  command_line.say(
      f'latency, batch of {figures["batch_size"]}: p50 {latency["p50"]:.1f} ms, '
      f'p95 {latency["p95"]:.1f} ms ({arguments.num_runs} runs)')


def main() -> None:
  """Profiles a detector."""
  arguments = _arguments()
  from official_ext import registry_imports
  experiment.import_modules(arguments.imports)
  figures = profile(arguments)
  _say(figures, arguments)
  if arguments.json:
    with files.atomic_file(arguments.json) as path:
      path.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  command_line.run(main)
