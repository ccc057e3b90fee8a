"""The package as a whole: import order, house rules, BUILD, and the wheel that people install."""
import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tokenize
import zipfile

import pytest
import yaml

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted(CHECKOUT.glob('official_ext/**/*.py'))
TEXT_SUFFIXES = ('.py', '.md', '.sh', '.yaml', '.yml', '.cff', '.txt', '.toml', '')
PYTHON_FILES = [
    *MODULES, *sorted(CHECKOUT.glob('tests/**/*.py')), *sorted(CHECKOUT.glob('scripts/**/*.py')),
    *sorted(CHECKOUT.glob('benchmarks/*.py')), CHECKOUT / 'setup.py']

# Each row may import from the rows above it, and its files from each other where the row says so:
# all of them, those of one folder (a network), or none.
ALL, FOLDER, NONE = 'all', 'folder', 'none'
ROWS = [
    (r'__init__|environment', NONE),
    (r'ops/.*', ALL),
    (r'configs/(__init__|options|components|head_styles|optimizer_fields|field_types|metric_names|'
     r'two_stage_fields)', NONE),
    (r'modeling/(__init__|layers/.*)', ALL),
    (r'modeling/decoders/pyramid', NONE),
    (r'modeling/(backbones|decoders|heads)/.*', FOLDER),
    (r'modeling/\w+', ALL),
    (r'losses/.*', ALL),
    (r'configs/(detectors|classifiers|field_ranges|without_effect)|dataloaders/.*', NONE),
    (r'configs/.*experiments', ALL),
    (r'visualization/.*', ALL),
    (r'(utils|datasets)/.*', ALL),
    (r'tasks/.*', ALL),
    (r'serving/(?!(convert|export_saved_model)$).*', ALL),
    (r'registry_imports', NONE),
    (r'train|tools/.*|serving/(convert|export_saved_model)', ALL),
]


def relative(path: pathlib.Path) -> str:
  return path.relative_to(CHECKOUT).as_posix()


def parse(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'), filename=str(path))


def row(name: str) -> int:
  """The index in ROWS of a module, which is named as its file without `official_ext/` and `.py`."""
  for index, (pattern, _) in enumerate(ROWS):
    if re.fullmatch(f'(?:{pattern})', name):
      return index
  raise AssertionError(f'official_ext/{name}.py has no place in the import order: add it to ROWS.')


def file_of(module: str) -> str | None:
  """The name that `row` takes of a dotted module of the package; None for anything else."""
  path = CHECKOUT / module.replace('.', '/')
  if path.with_suffix('.py').is_file():
    found = path.with_suffix('.py')
  elif (path / '__init__.py').is_file():
    found = path / '__init__.py'
  else:
    return None
  return found.relative_to(CHECKOUT / 'official_ext').with_suffix('').as_posix()


def imported_modules(tree: ast.Module) -> set[str]:
  """Names that `row` takes of the modules of the package that a module imports anywhere."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found.update(file_of(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: relative imports hide where a name is from'
      for alias in node.names:
        # `alias` is a submodule, or a name that the module defines.
        found.add(file_of(f'{node.module}.{alias.name}') or file_of(node.module))
  return {name for name in found if name and name != '__init__'}


def may_import(importer: str, imported: str) -> bool:
  """Whether the order of ROWS allows one module to import another."""
  above, own = row(imported), row(importer)
  if above != own:
    return above < own
  together = ROWS[own][1]
  folders = (name.rpartition('/')[0] for name in (importer, imported))
  # Networks of one file, such as decoders/fpn_lite.py, stand side by side in a folder.
  is_network = importer.count('/') > 2
  return together == ALL or (together == FOLDER and is_network and len(set(folders)) == 1)


def is_name(node: ast.AST, name: str) -> bool:
  return isinstance(node, ast.Name) and node.id == name


def broken_rules(tree: ast.Module) -> list[str]:
  """The house rules that a module breaks, with their lines."""
  found = []
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
    if any(re.match(r'(tensorflow\.)?keras(\.|$)', name) for name in names):
      found.append(f'line {node.lineno}: Keras 3; write `import tf_keras`')
    if isinstance(node, ast.Attribute) and node.attr == 'keras' and is_name(node.value, 'tf'):
      found.append(f'line {node.lineno}: tf.keras; write tf_keras')
    if isinstance(node, ast.Call) and is_name(node.func, 'print'):
      found.append(f'line {node.lineno}: print(); use command_line.say or absl logging')
    if isinstance(node, ast.Assert):
      found.append(f'line {node.lineno}: assert; raise ValueError')
  return found


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_import_order(path):
  importer = path.relative_to(CHECKOUT / 'official_ext').with_suffix('').as_posix()
  wrong = [name for name in imported_modules(parse(path)) if not may_import(importer, name)]
  assert not wrong, f'{importer} imports {wrong}, which stand beside or below it'


@pytest.mark.parametrize('importer, imported, allowed', [
    ('ops/routing', 'ops/multiply_adds', True),
    ('ops/routing', 'modeling/layers/norms', False),
    ('modeling/decoders/fpn_lite', 'modeling/decoders/pyramid', True),
    ('modeling/decoders/fpn_lite', 'modeling/decoders/caddet_projection', False),
    ('modeling/decoders/dyfpn/dyfpn', 'modeling/decoders/pyramid', True),
    ('modeling/decoders/dyfpn/dyfpn', 'modeling/decoders/dyfpn/gates', True),
    ('modeling/decoders/dyfpn/dyfpn', 'modeling/decoders/drfpn/drfpn', False),
    ('modeling/layers/norms', 'utils/files', False),
    ('modeling/network_cost', 'modeling/layers/norms', True),
    ('losses/budgets', 'configs/options', True),
    ('modeling/dense_detector', 'losses/budgets', False),
    ('tasks/routed', 'visualization/routing_figures', True),
    ('visualization/html_page', 'utils/files', False),
    ('registry_imports', 'modeling/decoders/__init__', True),
    ('registry_imports', 'tools/predict', False),
    ('serving/detection', 'registry_imports', False),
    ('serving/detection', 'tasks/routed', True),
    ('serving/export_saved_model', 'registry_imports', True),
    ('tools/predict', 'utils/files', True),
])
def test_import_order_tells_right_from_wrong(importer, imported, allowed):
  assert may_import(importer, imported) == allowed


def test_imports_are_found_wherever_they_stand():
  tree = ast.parse('def f():\n  from official_ext.utils import files\n'
                   '  from official_ext.utils.command_line import say\n'
                   'import official_ext.environment\n')
  assert imported_modules(tree) == {'utils/files', 'utils/command_line', 'environment'}


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_house_rules(path):
  found = broken_rules(parse(path))
  if path.name == 'environment.py':
    found = [text for text in found if 'tf.keras' not in text]
  text = path.read_text(encoding='utf-8')
  found += re.findall(r'\b(?:TODO|FIXME|XXX)\b.*', text)
  assert not found


@pytest.mark.parametrize('text', [
    'import keras', 'from keras import layers', 'from tensorflow import keras', 'print(1)',
    'import tensorflow.keras.layers', 'tf.keras.Model', 'assert x'])
def test_house_rules_tell_right_from_wrong(text):
  assert broken_rules(ast.parse(text))
  assert not broken_rules(ast.parse('import tensorflow as tf, tf_keras, keras_cv\nsay(print)'))


@pytest.mark.parametrize('path', PYTHON_FILES, ids=relative)
def test_files_are_short_and_indented_by_two(path):
  lines = path.read_text(encoding='utf-8').splitlines()
  assert len(lines) < 400
  widths = ['']
  with path.open('rb') as file:
    for token in tokenize.tokenize(file.readline):
      if token.type == tokenize.INDENT:
        assert token.string == widths[-1] + '  ', f'line {token.start[0]}: indent by two spaces'
        widths.append(token.string)
      elif token.type == tokenize.DEDENT:
        widths.pop()


def test_no_file_names_a_path_of_a_machine():
  folders = ['official_ext', 'tests', 'benchmarks', 'scripts', 'configs', 'data', 'docs', '.ci',
             '.github']
  files = [path for folder in folders for path in (CHECKOUT / folder).rglob('*')]
  # In a worktree, .git is a file that names the repository.
  files += [path for path in CHECKOUT.iterdir() if path.name != '.git']
  found = []
  for path in files:
    if path.is_file() and path.suffix in TEXT_SUFFIXES:
      for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        if re.search(r'(?<![\w.$}])/(root|work|home|Users|tmp|mnt)/', line):
          found.append(f'{relative(path)}:{number}: {line.strip()}')
  assert not found


def test_configs_parse():
  for path in CHECKOUT.glob('configs/**/*'):
    if path.is_file():
      assert path.suffix == '.yaml', f'{relative(path)}: configs/ holds YAML files only'
      text = path.read_text(encoding='utf-8')
      assert isinstance(yaml.safe_load(text), dict), relative(path)
      assert text.startswith('#'), f'{relative(path)}: the first line says what it reproduces'


def test_build_file_names_every_command():
  """Bazel finds the tests and the modules itself; scripts/check_build.sh loads the file."""
  text = (CHECKOUT / 'BUILD').read_text(encoding='utf-8')
  (block,) = re.findall(r'^COMMANDS = \[\n(.*?)\n\]$', text, re.MULTILINE | re.DOTALL)
  commands = [path for path in MODULES
              if "\nif __name__ == '__main__':" in path.read_text(encoding='utf-8')]
  assert sorted(re.findall('"(.+)",', block)) == sorted(
      relative(path).removeprefix('official_ext/').removesuffix('.py') for path in commands)


def test_import_does_not_load_tensorflow():
  text = ('import os, sys, official_ext, official_ext.environment as environment\n'
          'environment.data_path("efficientnet_lite0_imagenet")\n'
          'heavy = {"tensorflow", "tf_keras", "keras", "official", "numpy"} & set(sys.modules)\n'
          'sys.exit(f"loaded: {heavy}" if heavy else os.environ["TF_USE_LEGACY_KERAS"] != "1")')
  subprocess.run([sys.executable, '-c', text], check=True, cwd=CHECKOUT)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  """The wheel, built from a copy: a build leaves files behind, and would use old ones."""
  source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
  for name in ('official_ext', 'data'):
    shutil.copytree(
        CHECKOUT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.py', 'pyproject.toml', 'LICENSE', 'README.md'):
    if (CHECKOUT / name).exists():
      shutil.copy(CHECKOUT / name, source)
  subprocess.run(
      [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-index',
       '--no-build-isolation', '--wheel-dir', target, source], check=True)
  (path,) = target.glob('official_ext-*-py3-none-any.whl')
  return path


@pytest.mark.slow
def test_wheel_holds_every_module_the_backbone_and_the_demo(wheel):
  with zipfile.ZipFile(wheel) as archive:
    files = {name for name in archive.namelist() if '.dist-info/' not in name}
    metadata = archive.read(next(
        name for name in archive.namelist() if name.endswith('/METADATA'))).decode()
  backbone = sorted((CHECKOUT / 'data' / 'efficientnet_lite0_imagenet').iterdir())
  assert {'LICENSE', 'SOURCE.md', 'checkpoint', 'ckpt-1.index'} < {path.name for path in backbone}
  demo = sorted(path for path in (CHECKOUT / 'data' / 'demo').rglob('*') if path.is_file())
  assert {'LICENSE', 'SOURCE.md', 'weights.npz', 'params.yaml'} < {path.name for path in demo}
  assert files == {relative(path) for path in MODULES} | {'official_ext/py.typed'} | {
      f'official_ext/{relative(path)}' for path in (*backbone, *demo)}
  (versions,) = re.findall('Requires-Python: (.*)', metadata)
  assert set(versions.split(',')) == {'>=3.11', '<3.13'}
  assert 'Requires-Dist: tf-models-official~=2.20.0' in metadata


@pytest.mark.slow
def test_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
  target, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  subprocess.run(
      [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
       '--target', target, wheel], check=True)
  modules = [relative(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')
             for path in MODULES]
  text = """
import importlib, os, sys
site, modules = sys.argv[1], sys.argv[2:]
sys.path.insert(0, site)
for name in modules:
  path = importlib.import_module(name).__file__
  if not path.startswith(site + os.sep):
    sys.exit(f'{name} came from {path}')
from official_ext import environment
path = environment.data_path('efficientnet_lite0_imagenet')
if path != environment.pathlib.Path(site, 'official_ext/data/efficientnet_lite0_imagenet'):
  sys.exit(f'data came from {path}')
import tensorflow as tf
if not tf.train.list_variables(str(path)):
  sys.exit('empty checkpoint')
"""
  subprocess.run(
      [sys.executable, '-I', '-c', text, target.resolve(), *modules], check=True, cwd=elsewhere)


@pytest.mark.slow
def test_installed_wheel_trains_and_exports(wheel, sample_records, tmp_path):
  """One training step and one export, with nothing of the checkout on the path."""
  site, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  subprocess.run(
      [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
       '--target', site, wheel], check=True)
  common = ['--experiment=retinanet_dyfpn_efficientnetlite0_sample']
  small = ('trainer.train_steps=1,task.train_data.global_batch_size=2,'
           'task.model.input_size=[64,64,3],task.model.max_level=5,'
           'task.model.decoder.dyfpn.branches=[1x1,3x3]')
  commands = (
      ['official_ext.train', '--mode=train', '--model_dir=model', f'--params_override={small}',
       f'--config_file={sample_records}/overrides.yaml'],
      ['official_ext.serving.export_saved_model', '--checkpoint_path=model', '--export_dir=saved',
       '--config_file=model/params.yaml'])
  for module, *arguments in commands:
    result = subprocess.run(
        [sys.executable, '-m', module, *common, *arguments], cwd=elsewhere,
        env={**os.environ, 'PYTHONPATH': str(site)}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
  assert (elsewhere / 'saved' / 'saved_model.pb').is_file()
  trained, exported = (json.loads((elsewhere / path / 'categories.json').read_text())
                       for path in ('model', 'saved/assets'))
  assert trained == exported == [
      {'id': digit + 1, 'name': str(digit), 'original_id': digit + 1} for digit in range(10)]
  parameters = (elsewhere / 'model' / 'params.yaml').read_text(encoding='utf-8')
  assert str(site / 'official_ext' / 'data') in parameters
