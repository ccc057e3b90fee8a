"""Draws accuracy against cost of trained detectors, at several thresholds or budgets of gates.

Every training of --model_dir is evaluated in memory, as its SavedModel would be, and every export
of --saved_model as it stands: average precision by pycocotools, and the multiply-adds of the whole
network for each image.  `--thresholds` shuts the gates of DyFPN, CADDet and the dynamic head up to
a threshold, without another training; an export takes it by its signature with_gate_threshold.
`--budgets` gives budgets to networks that were trained with budget_input.
"""
import argparse
from collections.abc import Callable, Sequence
import functools
import json
import pathlib
from typing import Any

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.tools import evaluation
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_EPILOG = """example:
  python -m official_ext.tools.tradeoff --experiment=fcos_dynamichead_efficientnetlite0_sample \\
    --model_dir=runs/dynamic --thresholds=0,0.1,0.3,0.5 --images=runs/sample/coco/images/val \\
    --annotation_file=runs/sample/records/annotations/val.json --output_dir=runs/tradeoff"""
_MARKER = 'tradeoff.json'
_WRITES = ('tradeoff.png',)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.tradeoff', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--experiment', metavar='NAME',
                      help='the experiment that was trained; params.yaml of each training says '
                      'what it changed; needed with --model_dir')
  parser.add_argument('--model_dir', default=[], action='append', type=pathlib.Path,
                      metavar='DIR', help='folder of a training; may be given several times')
  parser.add_argument('--saved_model', default=[], action='append', type=pathlib.Path,
                      metavar='DIR', help='folder of an export or conversion; may be given several '
                      'times')
  parser.add_argument('--thresholds', default=[0.0], metavar='A,B,...',
                      type=argument_types.list_of(argument_types.threshold),
                      help='gates up to a threshold count as shut; in [0, 1], default 0')
  parser.add_argument('--budgets', default=[], metavar='A,B,...',
                      type=argument_types.list_of(argument_types.threshold),
                      help='for networks with budget_input, instead of thresholds: the share of '
                      'what gates can save that runs, in [0, 1]')
  parser.add_argument('--images', required=True, nargs='+', type=pathlib.Path, metavar='PATH',
                      help='a folder, searched with all folders in it, or image files')
  parser.add_argument('--annotation_file', required=True, type=pathlib.Path, metavar='JSON',
                      help='COCO annotations of the images')
  parser.add_argument('--output_dir', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder for tradeoff.json and tradeoff.png; earlier ones are replaced')
  experiment.add_import_argument(parser)
  args = parser.parse_args(arguments)
  if not args.model_dir and not args.saved_model:
    parser.error('give --model_dir or --saved_model')
  if args.model_dir and not args.experiment:
    parser.error('--model_dir needs --experiment')
  return args


def points(args: argparse.Namespace, images: image_ids.ImageSet, truth: truth_lib.Truth
           ) -> list[dict[str, Any]]:
  """Evaluates every detector at every budget or threshold, or once if it takes neither.

  Args:
    args: the command's arguments.
    images: the images to predict.
    truth: the annotation file of the images.

  Returns:
    One mapping per detector and budget or threshold: the result of `evaluation.evaluate`, `model`,
    which is the end of the folder's path, and `threshold` and `budget`, at least one of them None.
  """
  from official_ext.serving import converted_detectors
  from official_ext.serving import detectors
  names = files.short_names([*args.model_dir, *args.saved_model])
  loads: list[tuple[pathlib.Path, Callable[[pathlib.Path], Any]]] = [
      *((path, functools.partial(detectors.restore, args.experiment)) for path in args.model_dir),
      *((path, converted_detectors.load) for path in args.saved_model)]
  found = []
  for name, (path, load) in zip(names, loads, strict=True):
    detector = load(path)
    evaluation.check_costs(detector, str(path))
    for threshold, budget in _settings(detector, name, args):
      if budget is not None:
        detector.set_budget(budget)
      elif threshold is not None:
        detector.set_gate_threshold(threshold)
      found.append({'model': name, 'threshold': threshold, 'budget': budget,
                    **evaluation.evaluate(detector, images, truth)})
      _say(found[-1])
  return found


def _settings(detector: Any, name: str, args: argparse.Namespace
              ) -> list[tuple[float | None, float | None]]:
  """Returns the thresholds and budgets, of which at least one is None, that a detector takes.

  It says which of the given ones are not used.
  """
  if args.budgets and detector.set_budget(1.0):
    return [(None, budget) for budget in sorted(set(args.budgets))]
  if args.budgets:
    command_line.say(f'{name} takes no budget: --budgets is not used for it.')
  if detector.set_gate_threshold(0.0):
    return [(threshold, None) for threshold in sorted(set(args.thresholds))]
  if args.thresholds != [0.0]:
    command_line.say(f'{name} takes no threshold: --thresholds is not used for it.')
  return [(None, None)]


def _say(point: dict[str, Any]) -> None:
  at = ''.join(f' at {name} {point[name]:g}' for name in ('threshold', 'budget')
               if point[name] is not None)
  command_line.say(
      f'{point["model"]}{at}: AP {point["ap"]:.3f}, AP50 {point["ap50"]:.3f}; GMAC per image: '
      f'mean {point["gmac_mean"]:.3f}, {point["gmac_min"]:.3f} to {point["gmac_max"]:.3f}')


def main(arguments: Sequence[str] | None = None) -> None:
  """Evaluates and draws; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[
      *args.images, args.annotation_file, *args.model_dir, *args.saved_model])
  truth = truth_lib.Truth(args.annotation_file)
  images = image_ids.assign(image_files.find(args.images), truth)
  evaluation.say_left_out(images, truth)
  from official_ext import registry_imports
  from official_ext.visualization import tradeoff
  experiment.import_modules(args.imports)
  found = points(args, images, truth)
  with files.atomic_directory(args.output_dir) as folder:
    (folder / _MARKER).write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    tradeoff.draw_tradeoff(found).savefig(
        folder / 'tradeoff.png', dpi=110, bbox_inches='tight')
  command_line.say(f'Wrote {args.output_dir}')


if __name__ == '__main__':
  command_line.run(main)
