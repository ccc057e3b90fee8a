"""Prints what a detector costs: parameters and multiply-adds by part, and latency.

Multiply-adds are per image, in 10^9 (GMAC): what was executed, and what every gate shut and every
gate open would cost; of the backbone, of backbone and neck, and of the whole network.  With --data
each image has its own size, as in papers, and the figures are mean, minimum, maximum and standard
deviation over the images.  The network always runs in float32.
"""
import argparse
from collections.abc import Sequence
import functools
import json
from typing import Any

from official_ext.tools import gate_settings
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_EPILOG = """example:
  python -m official_ext.tools.profile --experiment=retinanet_dyfpn_efficientnetlite0_sample \\
    --checkpoint_path=runs/dyfpn --data='runs/sample/records/val-*.tfrecord' --json=cost.json

  python -m official_ext.tools.profile --experiment=fcos_dynamichead_resnet50_coco --count_only \\
    --data=coco/val2017 --sides=800,1333 --count=paper"""

_GIGA = 1e9
_FIELDS = {'executed': 'executed', 'minimum': 'every gate shut', 'maximum': 'every gate open'}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.profile', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser)
  parser.add_argument('--image_size', type=argument_types.image_size, metavar='H,W',
                      help='one height and width in pixels for all images, padding included; '
                      'default: the own size of each image of --data, see --sides')
  parser.add_argument('--data', metavar='PATTERN',
                      help='images or TFRecords to measure: a folder or a glob; default: one '
                      "synthetic image, of the experiment's size")
  parser.add_argument('--sides', type=argument_types.image_size, metavar='S,L',
                      help='own size of an image: its short side becomes S pixels, but its long '
                      "side at most L; default: the sides of the experiment's size")
  parser.add_argument('--count', choices=('all', 'paper'), default='all',
                      help='paper: without what the tables of the paper do not count; what that is '
                      'gets printed')
  parser.add_argument('--count_only', action='store_true',
                      help='only count: neither run the network over --data nor time it')
  parser.add_argument('--checkpoint_path', metavar='PATH',
                      help='trained weights: a checkpoint or the folder of a training; without '
                      'them gates decide at random and only the bounds mean something')
  parser.add_argument('--saved_model', metavar='DIR',
                      help='time this export, of input type image_tensor, or its conversion, '
                      'resizing included')
  gate_settings.add_arguments(parser)
  parser.add_argument('--batch_size', type=argument_types.positive_int, default=1, metavar='N',
                      help='images per run; default 1')
  parser.add_argument('--num_runs', type=argument_types.positive_int, default=20, metavar='N',
                      help='timed runs, after a warm-up; default 20')
  parser.add_argument('--twins', action='store_true',
                      help='also time, as exports compute them, the detector on the cheapest and '
                      'the dearest of the timed images, beside the same detector without gates and '
                      'with a plain FPN or head')
  parser.add_argument('--diagnose', action='store_true',
                      help='include metrics that cost as much as the network, such as the spectral '
                      "radius of an implicit pyramid's map")
  parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
  args = parser.parse_args()
  if args.count_only and (args.saved_model or args.twins or args.diagnose):
    parser.error('--count_only runs no network: leave it out, or --saved_model, --twins and '
                 '--diagnose')
  if args.image_size and args.sides:
    parser.error('--image_size gives all images one size, and --sides each its own: give one')
  return args


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


def _latency(detector: Any, images: Sequence[Any], arguments: argparse.Namespace
             ) -> dict[str, float]:
  """Returns the percentiles `p50` and `p95` of a detector's latency, in milliseconds."""
  import numpy as np

  from official_ext.serving import detectors
  seconds = detectors.latency(detector, images, arguments.batch_size, arguments.num_runs)
  p50, p95 = np.percentile(seconds, [50, 95])
  return {'p50': p50 * 1000, 'p95': p95 * 1000}


def _resolve(arguments: argparse.Namespace) -> tuple[Any, tuple[int, int], tuple[int, int]]:
  """Returns the experiment, whose model takes images of any size, and the sizes that it had.

  Returns:
    The experiment; height and width of the network's input, if it is the same for all images; the
    short and the long side of an image that has its own size.

  Raises:
    CommandError: not a detector, or the export to be timed is of another network.
  """
  from official_ext.dataloaders import image_sizes
  from official_ext.serving import detection
  from official_ext.tools import exported_options
  params = experiment.resolve(
      arguments.experiment, arguments.config_file, arguments.params_override, lock=False)
  task = params.task
  detection.check_detector(task)
  if arguments.saved_model:
    exported_options.check(
        params, arguments.saved_model, bool(arguments.image_size or arguments.sides))
  if image_sizes.is_paper(task):
    canvases, = image_sizes.canvases(task, is_training=False)
    size, sides = canvases.widest.size, (task.resize.short_side, task.resize.long_side)
    task.resize.rule = 'garden'  # The one rule that does not ask for canvases.
  else:
    size = sides = tuple(task.model.input_size[:2])
  task.model.input_size = [None, None, 3]
  task.train_data.parser.pad = False  # The image size includes padding.
  return params, arguments.image_size or size, arguments.sides or sides


def _load_saved_model(arguments: argparse.Namespace) -> Any:
  """Loads the SavedModel to be timed; its default budget becomes that of `arguments`.

  Raises:
    CommandError: it is of another experiment than the one that is counted, or of other batches.
  """
  from official_ext.serving import converted_detectors
  path = arguments.saved_model
  detector = converted_detectors.load_to_time(path)
  exported = detector.description.get('experiment') or arguments.experiment
  if exported != arguments.experiment:
    raise command_line.CommandError(
        f'--saved_model={path} is of the experiment {exported}, and --experiment is '
        f'{arguments.experiment}, whose cost is not its own: give --experiment={exported}.')
  detector.check_batch_size(arguments.batch_size)
  arguments.budget = gate_settings.apply(detector, arguments, f'--saved_model={path}')
  return detector


def _measure(model: Any, size: tuple[int, int], sides: tuple[int, int],
             arguments: argparse.Namespace) -> tuple[list[Any], list[Any], str]:
  """Returns the cost of every image, the first images, and in words what is left out of the cost.

  Args:
    model: a detector for images of any size.
    size: of the images, unless each has its own.
    sides: short and long side of images that have their own size.
    arguments: arguments of the command line.
  """
  from official_ext.serving import data_images
  from official_ext.serving import image_costs
  rule = functools.partial(image_costs.canvas_size, canvas=size)
  if arguments.data and not arguments.image_size:
    rule = functools.partial(image_costs.own_size, sides=sides)
  meter = image_costs.CostMeter(
      model, rule, as_paper=arguments.count == 'paper', runs=not arguments.count_only,
      diagnose=arguments.diagnose)
  images, total = data_images.decoded(arguments.data, size)
  first: list[Any] = []
  costs: list[Any] = []
  for image in command_line.progress(images, 'measuring images', total):
    costs.append(meter.measure(image))
    if len(first) < arguments.batch_size * arguments.num_runs:
      first.append(image)
  return costs, first, meter.left_out


def profile(arguments: argparse.Namespace) -> dict[str, Any]:
  """Builds, counts and runs a detector.

  Args:
    arguments: arguments of the command line.

  Returns:
    The figures as `--json` writes them.

  Raises:
    CommandError: a file or folder does not exist, or does not fit the experiment.
  """
  import numpy as np

  from official_ext.modeling.layers import routed
  from official_ext.serving import detection
  from official_ext.serving import detectors
  from official_ext.serving import image_costs
  from official_ext.serving import twins
  saved = _load_saved_model(arguments) if arguments.saved_model else None
  params, size, sides = _resolve(arguments)
  model = build_model(params, arguments.checkpoint_path)
  what = f'--experiment={arguments.experiment}'
  with gate_settings.applied(model, arguments, what):
    costs, first, left_out = _measure(model, size, sides, arguments)
  statistics = image_costs.statistics(costs)
  whole = statistics['whole network']
  gmac = {field: whole[field]['mean'] for field in ('static', 'minimum', 'maximum')}
  if 'executed' in whole:
    gmac['mean'] = whole['executed']['mean']
  maxima = [fields['maximum']['mean'] for fields in statistics.values()]
  figures = {
      'experiment': arguments.experiment,
      'image_size': list(costs[0].size) if len({cost.size for cost in costs}) == 1 else None,
      'images': len(costs),
      'mean_pixels': float(np.mean([np.prod(cost.size) for cost in costs])),
      'is_trained': bool(arguments.checkpoint_path),
      'gate_threshold': arguments.gate_threshold,
      'budget': arguments.budget,
      'batch_size': arguments.batch_size,
      'count': arguments.count,
      'parameters': count_parameters(model),
      'gmac': {name: value / _GIGA for name, value in gmac.items()},
      'gmac_by_scope': {scope: {field: {name: value / _GIGA for name, value in values.items()}
                                for field, values in fields.items()}
                        for scope, fields in statistics.items()},
      'gmac_maximum_by_part': {
          part: (end - start) / _GIGA
          for part, start, end in zip(routed.PARTS, [0, *maxima], maxima)},
      'gmac_left_out': {field: float(np.mean([cost.uncounted[field] for cost in costs])) / _GIGA
                        for field in costs[0].uncounted},
      'left_out': left_out,
      'metrics': {name: float(np.mean([cost.metrics[name] for cost in costs]))
                  for name in costs[0].metrics},
  }
  if not arguments.count_only:
    module = detection.RoutedDetectionModule(params, model=model, input_image_size=size)
    detector = detectors.InMemoryDetector(module)
    gate_settings.apply(detector, arguments, what)
    figures['latency_ms'] = _latency(saved or detector, first, arguments)
    if arguments.twins:
      figures.update(twins.figures(detector, first, arguments.num_runs))
  return figures


def _say(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
  """Prints the figures as tables."""
  if figures['image_size']:
    height, width = figures['image_size']
    sizes = f'images of {height} x {width} pixels'
  else:
    sizes = f'images at their own sizes, {figures["mean_pixels"] / 1e6:.3f} megapixels on average'
  command_line.say(f'{figures["experiment"]}, {sizes}, float32')
  command_line.say('parameters (10^6): ' + ', '.join(
      f'{part} {count / 1e6:.3f}' for part, count in figures['parameters'].items()))
  weights = '' if figures['is_trained'] else ', untrained weights'
  source = f'{figures["images"]} images' if arguments.data else 'a synthetic image'
  command_line.say(f'{f"GMAC per image of {source}{weights}":48}' + ''.join(
      f'{name:>10}' for name in ('mean', 'minimum', 'maximum', 'deviation')))
  for scope, fields in figures['gmac_by_scope'].items():
    for field, text in _FIELDS.items():
      if field in fields:
        command_line.say(f'{f"  {scope}, {text}":48}' + ''.join(
            f'{value:10.3f}' for value in fields[field].values()))
  if figures['count'] == 'paper':
    costs = (f'{text} {figures["gmac_left_out"][field]:.3f}' for field, text in _FIELDS.items()
             if field in figures['gmac_left_out'])
    command_line.say(f'left out, as in the paper: {figures["left_out"] or "nothing"} '
                     f'({", ".join(costs)})')
  if figures['metrics']:
    command_line.say(f'metrics, mean over {source}{weights}: ' + ', '.join(
        f'{name} {value:.3g}' for name, value in figures['metrics'].items()))
  if 'latency_ms' in figures:
    latency = figures['latency_ms']
    command_line.say(
        f'latency, batch of {figures["batch_size"]}: p50 {latency["p50"]:.1f} ms, '
        f'p95 {latency["p95"]:.1f} ms ({arguments.num_runs} runs)')
  for name, times in figures.get('twins_ms', {}).items():
    command_line.say(f'  {name:24}{figures["twins_gmac"][name]:.3f} GMAC, median '
                     f'{times["median"]:.1f} ms, quartiles {times["low"]:.1f} to '
                     f'{times["high"]:.1f} ms')


def main() -> None:
  """Profiles a detector."""
  arguments = _arguments()
  from official_ext import registry_imports
  experiment.import_modules(arguments.imports)
  if arguments.json:
    files.check_file(arguments.json, '--json')
  figures = profile(arguments)
  _say(figures, arguments)
  if arguments.json:
    with files.atomic_file(arguments.json) as path:
      path.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  command_line.run(main)
