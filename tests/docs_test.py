"""Pages, and the sources of data/: their links, files, commands, experiments and options exist."""
import argparse
import ast
import difflib
import re

from absl import flags
import pytest
import yaml

from official_ext import registry_imports
from official_ext.utils import command_line
from official_ext.utils import experiment
import documents

CHECKOUT = documents.CHECKOUT
PAGES = {path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding='utf-8')
         for path in documents.PAGES}
PROGRAMS = sorted({*CHECKOUT.glob('official_ext/**/*.py'), *CHECKOUT.glob('scripts/*.py'),
                   *CHECKOUT.glob('benchmarks/*.py')} -
                  # These import PyTorch, which the project does not install.
                  {CHECKOUT / f'benchmarks/torch_{name}.py' for name in ('authors', 'peers')})
EVERY = pytest.mark.parametrize('page', PAGES)
# Options are those of one of these experiments, which together have every detector and head.
SOME = ('retinanet_dyfpn_efficientnetlite0_sample', 'fcos_dynamichead_efficientnetlite0_sample',
        'maskrcnn_fpn_resnet50_coco', 'fcos_caddet_sample', 'caddet_imagenet')
# What stands for a value of the reader's own.
PLACEHOLDERS = ('...', 'FOLDER', 'NAME', 'EXPERIMENT', 'DIR')


def docstring_commands() -> list[documents.Command]:
  """The commands in the docstrings of modules and scripts."""
  found = []
  for path in PROGRAMS:
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    found += documents.commands(f'{text}\n', path.relative_to(CHECKOUT).as_posix())
  return found


COMMANDS = [command for page, text in PAGES.items() for command in documents.commands(text, page)]
ALL_COMMANDS = [*COMMANDS, *docstring_commands()]


def test_pages_have_commands_of_many_programs():
  programs = {command.program for command in COMMANDS}
  assert {'scripts/quickstart.sh', 'scripts/test.sh', 'official_ext.train',
          'official_ext.serving.export_saved_model', 'benchmarks/export.py'} < programs
  assert len(COMMANDS) > 60 and len(programs) > 30
  assert {'README.md', 'data/demo/SOURCE.md'} < {command.page for command in COMMANDS}


@EVERY
def test_links_lead_somewhere(page):
  wrong = []
  for target in documents.targets(PAGES[page]):
    if re.match(r'https?://', target):
      continue
    path, _, anchor = target.partition('#')
    file = (CHECKOUT / page).parent / path if path else CHECKOUT / page
    if not file.exists():
      wrong.append(f'{target}: no such file')
    elif anchor and anchor not in documents.anchors(file.read_text(encoding='utf-8')):
      wrong.append(f'{target}: no such heading')
  assert not wrong


@EVERY
def test_files_that_a_page_names_exist(page):
  names = re.findall(r'`((?:docs|scripts|benchmarks|tests|official_ext|configs|data)/[\w./-]+)`',
                     PAGES[page])
  # docs/architecture.md names files as the package sees them, and modules without their ending.
  missing = [name for name in names if 'my_' not in name and not any(
      (folder / path).exists() for folder in (CHECKOUT, CHECKOUT / 'official_ext')
      for path in (name, f'{name.partition(".")[0]}.py'))]
  assert not missing


@pytest.mark.parametrize('program', sorted({command.program for command in ALL_COMMANDS}))
def test_commands_are_understood(program, capsys):
  """The parser of the program takes the arguments that pages and docstrings give it."""
  path = documents.program_file(program)
  assert path.is_file(), f'{program} does not exist'
  parser = documents.parser_of(program)
  for command in ALL_COMMANDS:
    if command.program != program or '--experiment=...' in command.arguments:
      continue
    if program == 'official_ext.train':
      check_flags_of_training(command)
    elif parser is not None:
      try:
        argparse.ArgumentParser.parse_args(
            parser, [text for text in command.arguments if text != '...'])
      except SystemExit:
        pytest.fail(f'{command}\n{capsys.readouterr().err}')


def check_flags_of_training(command):
  from official_ext import train
  if 'experiment' not in flags.FLAGS:
    train._define_flags()
  for argument in command.arguments:
    name = re.match(r'--(\w+)', argument)
    assert name and name[1] in flags.FLAGS, f'{command}: {argument}'
  for name in ('experiment', 'mode', 'model_dir'):
    assert command.values(f'--{name}'), f'{command}: no --{name}'


def check_options(command):
  """Resolves the experiment of a command with its overrides and the config files that exist."""
  names = [name for name in command.values('--experiment') if name not in PLACEHOLDERS]
  files = command.values('--config_file')
  missing = [name for name in files if name.startswith('configs/')
             and not (CHECKOUT / name).is_file()]
  assert not missing
  for name in names:
    experiment.resolve(name, [str(CHECKOUT / file) for file in files
                              if file.startswith('configs/')],
                       ','.join(command.values('--params_override')))


@pytest.mark.parametrize(
    'command', [command for command in ALL_COMMANDS if command.values('--experiment')
                and command.program != 'benchmarks/warm_start.py'], ids=str)
def test_experiments_and_their_overrides_resolve(command):
  check_options(command)


def has_field(config, path):
  for name in path:
    if name == '*':
      return True
    if not hasattr(config, name):
      return False
    config = getattr(config, name)
  return True


@EVERY
def test_options_that_a_page_names_exist(page):
  """Each `task.*`, `trainer.*` or `runtime.*` is a field of an experiment."""
  experiments = [experiment.resolve(name) for name in SOME]
  found = re.findall(r'`((?:task|trainer|runtime)(?:\.[\w*]+)+)', documents.prose(PAGES[page]))
  unknown = [name for name in found if not any(
      has_field(config, name.split('.')) for config in experiments)]
  assert not unknown


@EVERY
def test_blocks_of_options_resolve(page):
  """Each block of YAML is taken by an experiment."""
  for block in documents.code_blocks(PAGES[page]):
    if not re.match(r'(task|trainer|runtime)[:.]', block):
      continue
    options = '\n'.join(re.sub(r' {2,}#.*', '', line) for line in block.splitlines())
    errors = []
    for name in SOME:
      try:
        # Lines `task.a.b: {...}` and blocks `task:` become the same mapping.
        override = nested(yaml.safe_load(options))
        experiment.resolve(name, params_override=yaml.safe_dump(override))
      except command_line.CommandError as error:
        errors.append(str(error))
    assert len(errors) < len(SOME), f'{options}\n{errors}'


def nested(options):
  """Returns a mapping in which the keys `a.b` are keys `b` of the mapping `a`."""
  result = {}
  for key, value in options.items():
    *parents, last = key.split('.')
    place = result
    for parent in parents:
      place = place.setdefault(parent, {})
    place[last] = value
  return result


@EVERY
def test_experiments_that_a_page_names_are_registered(page):
  names = set(re.findall(
      r'\b(?:retinanet|fasterrcnn|maskrcnn|cascadercnn|fcos|atss|caddet)_\w+_(?:coco|sample)\b',
      PAGES[page]))
  unknown = names - set(experiment.names())
  assert not unknown, [difflib.get_close_matches(name, experiment.names()) for name in unknown]


@EVERY
def test_flags_in_sentences_exist(page):
  """In `predict --max_ms=30` and the like, the program has the flag."""
  tools = {path.stem: f'official_ext.tools.{path.stem}'
           for path in CHECKOUT.glob('official_ext/tools/*.py')}
  tools.update({f'tools.{name}': program for name, program in tools.items()})
  tools.update({'export_saved_model': 'official_ext.serving.export_saved_model',
                'convert': 'official_ext.serving.convert',
                'serving.convert': 'official_ext.serving.convert',
                'quickstart.sh': 'scripts/quickstart.sh', 'compare.py': 'scripts/compare.py'})
  for name, rest in re.findall(r'`([\w./]+) ([^`]*--[^`]*)`', documents.prose(PAGES[page])):
    if name in tools:
      known = documents.parser_of(tools[name])._option_string_actions
      for flag in re.findall(r'--[\w-]+', rest):
        assert flag in known, f'`{name} {rest}`: {flag}'


# The block of docs/dynamic_head.md runs in the tests of its tower; others need files.
@pytest.mark.parametrize('page', ['README.md', 'docs/budgets.md', 'docs/caddet.md'])
def test_python_of_a_page_runs(page):
  (code,) = re.findall(r'^```python\n(.*?)^```$', PAGES[page], re.MULTILINE | re.DOTALL)
  names = {}
  exec(compile(code, page, 'exec'), names)
  assert all(update is not None for update in names['updates'])


@pytest.mark.parametrize('name', ['dyfpn', 'drfpn', 'ifpn', 'dynamic_head', 'caddet'])
def test_pages_of_networks_have_one_order(name):
  text = PAGES[f'docs/{name}.md']
  order = ['When to use it', 'Options', 'What it costs', 'Results', 'Differs']
  titles = re.findall(r'^## (.+)$', text, re.MULTILINE)
  assert titles[:len(order)] == order
  introduction = text.partition('\n## ')[0]
  assert re.search(r'^!\[.+\]\(figures/\w+\.png\)$', introduction, re.MULTILINE)
  assert f'scripts/figures.sh {name}' in introduction


def test_the_table_of_papers_is_that_of_the_yaml_files(monkeypatch):
  monkeypatch.syspath_prepend(CHECKOUT / 'scripts')
  import paper_tables
  assert paper_tables.page(PAGES['docs/reproduce.md']) == PAGES['docs/reproduce.md'], (
      'run .venv/bin/python scripts/paper_tables.py')


def test_every_page_is_in_the_index():
  linked = set(documents.targets(PAGES['docs/index.md']))
  names = {path.name for path in (CHECKOUT / 'docs').iterdir() if path.is_file()}
  assert names - {'index.md'} <= linked


def test_pictures_are_small():
  sizes = [path.stat().st_size for path in (CHECKOUT / 'docs' / 'figures').iterdir()]
  assert sizes and sum(sizes) < 1_000_000


def test_pages_have_no_text_of_a_merge():
  for page, text in PAGES.items():
    assert not re.search(r'^(<<<<<<<|=======$|>>>>>>>)', text, re.MULTILINE), page


@pytest.mark.parametrize('text, program, arguments', [
    ('Run\n\n    .venv/bin/python -m official_ext.train --mode=train \\\n      --import=a  # why\n',
     'official_ext.train', ['--mode=train', '--import=a']),
    ('```\nscripts/quickstart.sh --data "my folder"\n```\n', 'scripts/quickstart.sh',
     ['--data', 'my folder']),
    ('    taskset -c 1 python benchmarks/export.py --repeats 2\n', 'benchmarks/export.py',
     ['--repeats', '2'])])
def test_commands_are_found(text, program, arguments):
  assert documents.commands(text, 'page') == [documents.Command('page', program, arguments)]


def test_wrong_options_are_found():
  with pytest.raises(command_line.CommandError, match='nek'):
    check_options(documents.Command('page', 'official_ext.train', [
        f'--experiment={SOME[0]}', '--params_override=task.model.nek=1']))
  assert not has_field(experiment.resolve(SOME[0]), 'task.model.nek'.split('.'))
  assert documents.anchors('# What it found: 2 runs\n') == {'what-it-found-2-runs'}
  assert documents.targets('[x](docs/x.md) and `[y](z)`') == ['docs/x.md']
