"""Set-up for all tests: Keras 2, parsed flags, few threads for each worker, shared data sets."""
import collections
import functools
import gc
import importlib
import os
import pathlib
import sys
from unittest import mock

# Model Garden's and absl's test modules would read the options of pytest from sys.argv.
sys.argv = sys.argv[:1]

import official_ext  # noqa: E402, F401 (chooses Keras 2 before anything loads TensorFlow)

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('MPLBACKEND', 'Agg')
# Tests run most compiled functions once or twice, so XLA should compile fast.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 '
                      '--xla_llvm_disable_expensive_passes=true')
_workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
if _workers > 1:
  # Each worker's TensorFlow would start a thread for every core.
  _threads = str(max(1, (os.cpu_count() or 1) // _workers))
  for _variable in ('TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'OMP_NUM_THREADS'):
    os.environ.setdefault(_variable, _threads)

from absl import flags  # noqa: E402
from absl.testing import absltest  # noqa: E402, F401 (defines the flags of its test cases)
import pytest  # noqa: E402

flags.FLAGS.mark_as_parsed()


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--all_combinations', action='store_true',
                   help='train every decoder with every head (tests/tasks/combinations_test.py), '
                   'and every backbone with every detector (tests/tasks/backbones_test.py)')


REAL_DATA = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """Returns the folder of real data sets beside the checkout; skips the test if it is missing."""
  if not REAL_DATA.is_dir():
    pytest.skip('needs the data sets of ../shared/data beside the checkout')
  return REAL_DATA


@pytest.fixture(scope='session', autouse=True)
def annotations():
  """Keeps the annotations of each config class: Model Garden resolves them at every field set.

  Without that, an experiment takes three times as long to resolve.
  """
  from official.modeling import hyperparams
  resolve = functools.cache(hyperparams.Config._get_annotations.__func__)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hyperparams.Config, '_get_annotations', classmethod(resolve))
    yield


@pytest.fixture(scope='session', autouse=True)
def stacks():
  """Gives all operations of graphs one Python stack: reading it takes a twentieth of all tests.

  TensorFlow shows the stack in errors of operations alone.
  """
  from tensorflow.python.framework import ops
  stack = ops.tf_stack.extract_stack()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ops.tf_stack, 'extract_stack', lambda stacklevel=1: stack)
    yield


@pytest.fixture(scope='module', autouse=True)
def seed():
  """Seeds the random weights of a test file, because a gate near its threshold may open or not.

  The scope is a file: a new seed for each test would make TensorFlow compile shared functions
  again.
  """
  if 'tf_keras' in sys.modules:
    sys.modules['tf_keras'].utils.set_random_seed(1)


@pytest.fixture(scope='module', autouse=True)
def graph_optimizers(request):
  """Switches TensorFlow's graph optimizers (Grappler) on for tests of exports alone.

  Other tests run most functions once or twice, which takes less time than to optimize them.
  Processes that tests start have the optimizers on, as users have.
  """
  if 'tensorflow' in sys.modules:
    sys.modules['tensorflow'].config.optimizer.set_experimental_options(
        {'disable_meta_optimizer': not request.path.name.startswith('export_')})


@pytest.fixture(scope='module', autouse=True)
def unconverted_code(request):
  """Switches AutoGraph off, in all tests but those of tests/serving.

  Tasks and export modules do so themselves; this is for tests that call layers.
  """
  if 'tensorflow' not in sys.modules or request.path.parent.name == 'serving':
    yield
    return
  from tensorflow.python.autograph.core import config
  unconverted = [config.DoNotConvert(module) for module in ('tf_keras', 'official', 'official_ext')]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(config, 'CONVERSION_RULES', (*unconverted, *config.CONVERSION_RULES))
    yield


def pytest_collection_modifyitems(items):
  for item in items:
    if 'real_data' in getattr(item, 'fixturenames', ()):
      item.add_marker(pytest.mark.real_data)
  # Slow files run first, so that no worker runs the last of them alone.
  slow = collections.Counter(item.path for item in items if item.get_closest_marker('slow'))
  items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
  """Lets Python look for cycles of garbage less often, and never among what is imported.

  TensorFlow makes many objects and few cycles, so that the search took up to a tenth of the time.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 10, 5)


def pytest_terminal_summary(terminalreporter):
  """Prints which real-data tests ran, because a run without the data is green as well."""
  ran, skipped = [], []
  for outcome, names in (('passed', ran), ('failed', ran), ('skipped', skipped)):
    for report in terminalreporter.stats.get(outcome, ()):
      if 'real_data' in getattr(report, 'keywords', ()):
        names.append(f'{report.nodeid} {outcome}')
  if not ran and not skipped:
    return
  terminalreporter.write_line(f'Real-data checks: {len(ran)} ran, {len(skipped)} skipped.')
  for name in sorted(ran):
    terminalreporter.write_line(f'  {name}')


@pytest.fixture(scope='session')
def sample_records(tmp_path_factory) -> pathlib.Path:
  """Returns a folder of TFRecords of a small sample: 24 training and 12 validation images."""
  folder = tmp_path_factory.mktemp('sample')
  commands = (
      ('make_sample_data', f'--output_dir={folder}/coco', '--num_train=24', '--num_val=12'),
      ('convert_dataset', f'--input={folder}/coco', f'--output_dir={folder}/records',
       '--include_masks'))
  for arguments in commands:
    tool = importlib.import_module(f'official_ext.tools.{arguments[0]}')
    with mock.patch.object(sys, 'argv', [*arguments]):
      tool.main()
  return folder / 'records'
