"""Counts the networks of the papers' cost tables over a folder of images, beside what is published.

    .venv/bin/python scripts/cost_tables.py --data=FOLDER [--tables dyfpn caddet dynamic_head]

Each image has its own size, or the one of the table, and counts follow the papers, as with
`tools.profile --count=paper`.  The networks are not trained, so that for dynamic ones only the
bounds are known between which their cost is.  The table is printed as Markdown.
"""
import argparse
import pathlib
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)

from official_ext import registry_imports
from official_ext.tools import profile
from official_ext.utils import command_line

_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'
_GIGA_OF = {'G': 1.0, 'M': 1e3}


class Row(NamedTuple):
  """A network of a table.

  Attributes:
    config: YAML file below `configs/`, without its end.
    experiment: the experiment that it changes.
    published: the cost as printed: mean (maximum to minimum).
  """
  config: str
  experiment: str
  published: str


class Table(NamedTuple):
  """Tables of one paper that count in the same way.

  Attributes:
    title: paper and tables.
    scope: the parts that are counted, one of `image_costs.SCOPES`.
    unit: G or M.
    sizes: flags of `profile` for the sizes of images.
    rows: the networks.
  """
  title: str
  scope: str
  unit: str
  sizes: dict[str, Any]
  rows: tuple[Row, ...]


_OWN = {'sides': (800, 1333), 'image_size': None}


def _dyfpn(name: str, published: str) -> Row:
  neck = 'inception_fpn' if name.startswith('inception') else 'dyfpn'
  return Row(f'fasterrcnn/{name}_resnet50_1x', f'fasterrcnn_{neck}_resnet50_coco', published)


def _fcos(name: str, published: str) -> Row:
  head = 'fpn' if name == 'fpn' else 'dynamichead'
  return Row(f'fcos/{name}_resnet50_90k', f'fcos_{head}_resnet50_coco', published)


TABLES = {
    'dyfpn': (Table('DyFPN, tables 3, 4, 6', 'whole network', 'G', _OWN, (
        _dyfpn('inception_fpn', '896.2'),
        _dyfpn('dyfpn_a_gru_up', '242.0'), _dyfpn('dyfpn_a_gru_down', '324.5'),
        _dyfpn('dyfpn_a_cnn', '264.6'),
        _dyfpn('dyfpn_b_gru_up', '546.2'), _dyfpn('dyfpn_b_gru_down', '555.9'),
        _dyfpn('dyfpn', '537.5; with budgets 523.6, 399.3, 329.0, 328.6'))),),
    'caddet': (
        Table('CADDet, tables 1 to 3, 640x800', 'backbone', 'M',
              {'sides': None, 'image_size': (640, 800)}, (
                  Row('fcos/caddet_scale_aware005_1x', 'fcos_caddet_coco',
                      '3912 (4492 to 3458); other rows 3725 to 4337'),)),
        Table('CADDet, table 4, 800x1200', 'backbone and neck', 'G',
              {'sides': None, 'image_size': (800, 1200)}, (
                  Row('fcos/fpnlite_mobilenet_1x', 'fcos_fpnlite_mobilenet_coco', '11.8'),
                  Row('fcos/fpnlite_mobilenetv2_1x', 'fcos_fpnlite_mobilenetv2_coco', '7.8'),
                  Row('fcos/caddet_1x', 'fcos_caddet_coco', '6.5 (7.6 to 6.0)'),
                  Row('retinanet/caddet_1x', 'retinanet_caddet_coco', '6.7 (8.0 to 6.3)')))),
    'dynamic_head': (Table('Dynamic head, tables 1, 3, 4, 800x1344', 'whole network', 'G',
                           {'sides': None, 'image_size': (800, 1344)}, (
        _fcos('fpn', '216.7'), _fcos('dynamichead_fixed_d8', '512.5'),
        _fcos('dynamichead_high', '446.6 (463.1 to 422.7)'),
        _fcos('dynamichead_low', '203.6 (336.0 to 144.7)'),
        Row('retinanet/dynamichead_resnet50_90k', 'retinanet_dynamichead_resnet50_coco',
            '245.3'))),),
}


def figures(row: Row, table: Table, data: str) -> dict[str, Any]:
  """Returns what `tools.profile --count=paper --count_only` finds of a network."""
  return profile.profile(argparse.Namespace(
      experiment=row.experiment, config_file=[str(_CONFIGS / f'{row.config}.yaml')],
      params_override='', data=data, checkpoint_path=None, saved_model=None, batch_size=1,
      num_runs=1, diagnose=False, count='paper', count_only=True, **table.sizes))


def line(row: Row, table: Table, found: dict[str, Any]) -> str:
  """Returns a row of the Markdown table: means over the images."""
  fields, factor = found['gmac_by_scope'][table.scope], _GIGA_OF[table.unit]
  low, high = (f'{fields[field]["mean"] * factor:.{1 if factor == 1 else 0}f}'
               for field in ('minimum', 'maximum'))
  costs = f'{low} | {high}' if low != high else f'{low} | {low}'
  return f'| `{row.config}` | {row.published} | {costs} |'


def main() -> None:
  """Counts and prints."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, metavar='PATTERN', help='folder of COCO images')
  parser.add_argument('--tables', nargs='+', default=list(TABLES), choices=TABLES)
  args = parser.parse_args()
  for name in args.tables:
    for table in TABLES[name]:
      command_line.say(f'\n{table.title}: {table.scope}, {table.unit} multiply-adds\n')
      command_line.say('| network | published | every gate shut | every gate open |')
      command_line.say('|---|---:|---:|---:|')
      for row in table.rows:
        command_line.say(line(row, table, figures(row, table, args.data)))


if __name__ == '__main__':
  command_line.run(main)
