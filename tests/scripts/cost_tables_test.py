"""The papers' cost tables: their rows, and how counts are written."""
import re

import cost_tables
import pytest

ROWS = [(table, row) for tables in cost_tables.TABLES.values() for table in tables
        for row in table.rows]


@pytest.mark.parametrize('table, row', ROWS, ids=[row.config for _, row in ROWS])
def test_every_row_is_a_file_of_its_experiment_that_prints_the_same_cost(table, row):
  text = (cost_tables._CONFIGS / f'{row.config}.yaml').read_text()
  assert re.search(r'# Experiment: (\w+)\. Command', text)[1] == row.experiment
  comment = ' '.join(re.findall(r'^# (.*)$', text, re.MULTILINE))
  assert re.match(r'[\d.]+', row.published)[0] in comment
  assert set(table.sizes) == {'sides', 'image_size'}


def test_costs_are_means_in_the_unit_of_the_table():
  table, row = ROWS[0]
  found = {'gmac_by_scope': {'whole network': {
      'minimum': {'mean': 1.26, 'max': 9.0}, 'maximum': {'mean': 2.5, 'max': 9.0}}}}
  assert cost_tables.line(row, table, found) == (
      '| `fasterrcnn/inception_fpn_resnet50_1x` | 896.2 | 1.3 | 2.5 |')
  found = {'gmac_by_scope': {'backbone': {'minimum': {'mean': 0.0126}, 'maximum': {'mean': 3.5}}}}
  assert cost_tables.line(row, cost_tables.TABLES['caddet'][0], found).endswith('| 13 | 3500 |')
