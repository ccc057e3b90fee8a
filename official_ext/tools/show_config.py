"""Lists the experiments, or prints one as YAML with all overrides applied and checked."""
import argparse
import json
from typing import Any

import yaml

from official_ext.utils import command_line
from official_ext.utils import experiment

_EPILOG = """examples:
  python -m official_ext.tools.show_config
  python -m official_ext.tools.show_config --experiment=fasterrcnn_dyfpn_resnet50_coco \\
    --config_file=configs/fasterrcnn/dyfpn_resnet50_1x.yaml"""


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.show_config', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser, required=False)
  parser.add_argument('--all', action='store_true',
                      help="list Model Garden's experiments too, after this package's")
  parser.add_argument('--json', action='store_true', help='print JSON instead of text or YAML')
  arguments = parser.parse_args()
  if not arguments.experiment and (arguments.config_file or arguments.params_override):
    parser.error('--config_file and --params_override change an experiment: name it with '
                 '--experiment')
  return arguments


def _detector(task: Any) -> str:
  """Returns the common name of the detector that a task trains."""
  kind = type(task).__name__.removesuffix('Config').removesuffix('Task')
  if kind != 'MaskRCNN':
    return kind
  first = 'Cascade' if task.model.roi_sampler.cascade_iou_thresholds else 'Faster'
  if not task.model.include_mask:
    return f'{first} R-CNN'
  return 'Mask R-CNN' if first == 'Faster' else 'Cascade Mask R-CNN'


def _type(model: Any, field: str) -> str:
  """Returns the type, and the size if there is one, of a backbone or decoder; else ''."""
  options: Any = getattr(model, field, None)
  if not getattr(options, 'type', None):
    return ''
  size = getattr(options.get(), 'model_id', '')
  return f'{options.type} {size}'.strip()


def describe(name: str) -> dict[str, str]:
  """Returns `name`, `detector`, `decoder` and `backbone` of an experiment."""
  task = experiment.resolve(name).task
  model = getattr(task, 'model', None)
  return {'name': name, 'detector': _detector(task), 'decoder': _type(model, 'decoder'),
          'backbone': _type(model, 'backbone')}


def _is_from_model_garden(name: str) -> bool:
  return type(experiment.resolve(name).task).__module__.startswith('official.')


def _list(show_all: bool, as_json: bool) -> None:
  groups: dict[str, list[dict[str, str]]] = {'official_ext': [], 'Model Garden': []}
  for name in experiment.names():
    group = 'Model Garden' if _is_from_model_garden(name) else 'official_ext'
    if show_all or group == 'official_ext':
      groups[group].append(describe(name))
  rows = [row for group in groups.values() for row in group]
  if as_json:
    command_line.say(json.dumps(rows, indent=2))
    return
  columns = ('name', 'detector', 'decoder', 'backbone')
  widths = [max(len(row[column]) for row in rows) for column in columns]
  for title, described in groups.items():
    if described:
      command_line.say(f'Experiments of {title}:')
    for row in described:
      cells = (row[column].ljust(width) for column, width in zip(columns, widths))
      command_line.say(f'  {"  ".join(cells)}'.rstrip())


def _show(arguments: argparse.Namespace) -> None:
  params = experiment.resolve(
      arguments.experiment, arguments.config_file, arguments.params_override)
  experiment.check_training(params)
  model = getattr(params.task, 'model', None)
  if getattr(model, 'backbone', None) and getattr(model, 'decoder', None):
    experiment.build_decoder(model)
  if arguments.json:
    command_line.say(json.dumps(params.as_dict(), indent=2))
  else:
    command_line.say(yaml.safe_dump(params.as_dict(), default_flow_style=False).rstrip())


def main() -> None:
  """Lists experiments or prints one."""
  arguments = _arguments()
  from official_ext import registry_imports
  experiment.import_modules(arguments.imports)
  if arguments.experiment:
    _show(arguments)
  else:
    _list(arguments.all, arguments.json)


if __name__ == '__main__':
  command_line.run(main)
