"""Lists the experiments, or prints one as YAML with all overrides applied and checked."""
import argparse
import json

import yaml

from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import model_cards

_EPILOG = """examples:
  python -m official_ext.tools.show_config
  python -m official_ext.tools.show_config --experiment=fasterrcnn_dyfpn_resnet50_coco \\
    --config_file=configs/fasterrcnn/dyfpn_resnet50_1x.yaml
  python -m official_ext.tools.show_config --card --experiment=fcos_caddet_coco \\
    --config_file=configs/fcos/caddet_1x.yaml"""


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.show_config', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser, required=False)
  parser.add_argument('--all', action='store_true',
                      help="list Model Garden's experiments too, after this package's")
  parser.add_argument('--json', action='store_true', help='print JSON instead of text or YAML')
  parser.add_argument('--card', action='store_true',
                      help='print the model card of an experiment: data, recipe, licence, and the '
                      'published result that the comment of --config_file quotes')
  arguments = parser.parse_args()
  needs = arguments.config_file or arguments.params_override or arguments.card
  if needs and not arguments.experiment:
    parser.error('--config_file, --params_override and --card are about an experiment: name it '
                 'with --experiment')
  return arguments


def describe(name: str) -> dict[str, str]:
  """Returns `name`, `detector`, `decoder` and `backbone` of an experiment."""
  return {'name': name, **model_cards.network(experiment.resolve(name).task)}


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
  if arguments.card:
    comments = filter(None, map(model_cards.read_comment, arguments.config_file))
    card = model_cards.make(arguments.experiment, params, next(comments, None))
    command_line.say(json.dumps(card, indent=2))
  elif arguments.json:
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
