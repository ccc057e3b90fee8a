"""Every benchmark, on the smallest case that has all of its parts, runs and prints its ratios."""
import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import dataset_files
import numpy as np
import pytest
import tensorflow as tf, tf_keras

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.name)
def test_benchmark_can_be_imported_and_says_its_command(path, monkeypatch, capsys):
  if path.stem in ('torch_authors', 'torch_peers'):
    pytest.importorskip('torch')  # They run in an environment of their own.
  module = importlib.import_module(path.stem)
  if hasattr(module, 'main'):
    assert f'benchmarks/{path.name}' in module.__doc__
    monkeypatch.setattr(sys, 'argv', [path.name, '--help'])
    with pytest.raises(SystemExit) as ended:
      module.main()
    assert not ended.value.code and capsys.readouterr().out.startswith('usage: ')


def ratios(capsys) -> list[str]:
  return re.findall(r'\d+\.\d+', capsys.readouterr().out)


@pytest.mark.slow
def test_drfpn(capsys):
  drfpn = importlib.import_module('drfpn')
  drfpn.benchmark_sampling(1, 4, 4, 2, repeats=1)
  drfpn.benchmark_necks(32, repeats=1)
  assert len(ratios(capsys)) == 2 * 5 + 2 * 3


@pytest.mark.slow
def test_dyfpn(capsys):
  importlib.import_module('dyfpn').benchmark_necks(32, 1, repeats=1)
  assert len(ratios(capsys)) == 4 * 4


@pytest.mark.slow
@pytest.mark.parametrize('module', ['dyfpn', 'dynamic_head'])
def test_authors_time_modules_whose_gates_follow_the_share(module, monkeypatch, capsys):
  authors = importlib.import_module('authors')
  monkeypatch.setattr(authors, '_CHANNELS', 8)
  monkeypatch.setattr(authors, '_RESNET_CHANNELS', dict.fromkeys('2345', 8))

  def outputs(share):
    tf_keras.utils.set_random_seed(0)
    function, features = authors.build(module, 128, share)
    return {name: value.numpy() for name, value in function(**{
        name: tf.constant(value) for name, value in features.items()}).items()}

  opened, shut = outputs(1.0), outputs(0.0)
  assert len(opened) == 5
  for name, value in opened.items():
    assert np.isfinite(value).all() and np.abs(value - shut[name]).max() > 1e-3
  started = []

  def measure(commands, repeats):
    started.append((commands, repeats))
    return {name: np.array([2.0 if name == 'PyTorch' else 1.0]) for name in commands}

  monkeypatch.setattr(authors.peers, 'measure', measure)
  authors.main([f'--{module}=released.py', '--image_sizes=128', '--threads=1', '--repeats=3',
                '--fourier'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(started) == len(authors.SHARES[module])
  assert all(line.count('(0.50)') == 2 for line in lines)
  commands, repeats = started[0]
  assert repeats == 3 and '--source=released.py' in commands['PyTorch']
  assert ['--fourier' in commands[name] for name in ('PyTorch', 'TensorFlow')] == [False, True]
  with pytest.raises(SystemExit):
    authors.main([])
  assert 'give --dyfpn=FILE' in capsys.readouterr().err


@pytest.mark.slow
def test_fixed_point(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', [
      'fixed_point.py', '--image_size=32', '--filters', '8', '--repeats=1', '--cases',
      'Anderson 4'])
  fixed_point = importlib.import_module('fixed_point')
  monkeypatch.setattr(fixed_point, 'benchmark_memory', lambda cases, num_filters: None)
  fixed_point.main()
  assert len(ratios(capsys)) == 1 + 2


@pytest.mark.slow
@pytest.mark.parametrize('options', [[], ['--inference']])
def test_detectors(options, capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', [
      'detectors.py', '--backbone=efficientnetlite0_sample', '--image_size=64', '--repeats=1',
      *options, '--cases', 'DRFPN without context', '--override=task.model.max_level=5,'
      'task.model.backbone.type=resnet,task.model.backbone.resnet.model_id=10'])
  detectors = importlib.import_module('detectors')
  monkeypatch.setattr(detectors.memory, 'of_process', lambda file, arguments: 8.0)
  detectors.main()
  assert len(ratios(capsys)) == 2 * (1 if options else 2)


@pytest.mark.slow
def test_detectors_with_the_dynamic_head(capsys, monkeypatch):
  command = ['detectors.py', '--backbone=efficientnetlite0_sample', '--image_size=64',
             '--repeats=1', '--cases', 'dynamic head with a budget']
  monkeypatch.setattr(sys, 'argv', command)
  detectors = importlib.import_module('detectors')
  with pytest.raises(SystemExit):
    detectors.main()
  assert 'dynamic head with a budget is not for --detector=retinanet' in capsys.readouterr().err
  monkeypatch.setattr(sys, 'argv', [
      *command, '--detector=fcos', '--override=task.model.max_level=5,'
      'task.model.backbone.type=resnet,task.model.backbone.resnet.model_id=10'])
  monkeypatch.setattr(detectors.memory, 'of_process', lambda file, arguments: 8.0)
  detectors.main()
  assert len(ratios(capsys)) == 2 * 2


@pytest.mark.slow
def test_sparse_conv(capsys):
  sparse_conv = importlib.import_module('sparse_conv')
  points = sparse_conv.benchmark_block(1, (8, 12), 32, (1.0, 0.5), repeats=1, training=False)
  assert len(points) == 4 and sparse_conv.break_even(points)
  sparse_conv.benchmark_convolution((8, 12), 32, repeats=1)
  sparse_conv.benchmark_tiles((8, 12), 32, repeats=1)
  points = sparse_conv.benchmark_head([(8, 12), (4, 6)], 32, (1.0, 0.5), repeats=1)
  assert len(points) == 2
  assert ratios(capsys)


@pytest.mark.slow
def test_accelerator(capsys, tmp_path):
  accelerator = importlib.import_module('accelerator')
  case = ['--image_size', '64', '96', '--channels=32', '--batches=1', '--shares=0.2']
  accelerator.main([*case, '--dtypes=float32', '--repeats=1'])
  assert len(ratios(capsys)) == 2 * (1 + 6)
  accelerator.main([*case, '--dtypes=bfloat16', '--write_hlo', str(tmp_path / 'hlo')])
  name = 'batch1_bfloat16_open20'
  assert {path.name for path in (tmp_path / 'hlo').iterdir()} == {
      f'{name}{kind}.{end}' for kind in ('', '_training')
      for end in ('json', 'npz', 'dense.hlo', 'mask.hlo', 'tiles.hlo')}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('jax') is None, reason='needs JAX, which no extra has')
def test_what_accelerator_writes_runs_in_jax(tmp_path):
  importlib.import_module('accelerator').main([
      '--image_size', '64', '96', '--channels=32', '--batches=1', '--shares=0.2',
      '--dtypes=float32', '--write_hlo', str(tmp_path / 'hlo')])
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  lines = subprocess.run(
      [sys.executable, str(FOLDER / 'run_hlo.py'), str(tmp_path / 'hlo'), '--repeats=1'],
      env={**environment, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=True
  ).stdout.splitlines()
  assert [line.split(':')[0] for line in lines] == [
      'cpu cpu', 'batch1_float32_open20', 'batch1_float32_open20_training']
  for line in lines[1:]:
    assert float(re.search(r'tiles \S+ \(error (\S+)\)', line)[1]) < 1e-3


@pytest.mark.slow
def test_dynamic_head(capsys):
  dynamic_head = importlib.import_module('dynamic_head')
  args = dynamic_head.make_parser().parse_args(
      ['--image_size', '32', '64', '--channels=8', '--blocks=1', '--repeats=1', '--shares', '0.5'])
  case = dynamic_head.tower_case(args)
  dynamic_head.benchmark(case, args)
  assert len(ratios(capsys)) == 2 + 3
  assert 0.5 < case.executed() < 1
  for share in (0.0, 1.0):
    dynamic_head.open_share(case.towers[0], share)
    # Convolutions between levels always run.
    assert case.executed() < 0.2 if share == 0 else case.executed() == 1


@pytest.mark.parametrize('share', [1.0, 0.7, 0.2, 0.0])
def test_dynamic_engines_open_the_share(share):
  engines = importlib.import_module('dynamic_engines')
  tower = engines.dynamic_head_lib.DynamicTower(8, 2)
  features = {'3': tf.random.stateless_normal([1, 16, 20, 8], [0, 1]),
              '4': tf.random.stateless_normal([1, 8, 10, 8], [0, 2])}
  tower(features)
  engines.open_scattered(tower, features, share)
  with engines.routing.RoutingTape() as tape:
    tower(features)
  gates = tape.routing().gates
  assert len(gates) == 2 * 4
  # A gate between levels is set by the logits of both levels, and leaves only one of them.
  for number in range(2):
    opened = np.concatenate([np.ravel(gates[f'{tower.name}/block_{number}/depth_{level}'] > 0)
                             for level in '34'])
    assert abs(np.mean(opened) - share) <= 1 / opened.size
  if share in (0, 1):
    assert all(np.mean(gate > 0) == share for gate in gates.values())


@pytest.mark.slow
def test_dynamic_engines(capsys):
  engines = importlib.import_module('dynamic_engines')
  options = ['--image_size', '256', '256', '--channels=8', '--blocks=1', '--repeats=1',
             '--shares', '0.2', '--engines', 'tensorflow']
  engines.benchmark(engines.make_parser().parse_args(options))
  lines = [line for line in capsys.readouterr().out.splitlines() if 'tensorflow' in line]
  assert [line.split(':')[0].split(',')[1].strip() for line in lines] == [
      'definition', 'plain', 'fixed', '20% open']
  head, = re.findall(r'(\d+)% of the head', lines[-1])
  scattered = engines.make_parser().parse_args([*options, '--places=scattered'])
  _, share = engines.frozen_detector(scattered, 0.2, engines.read_image((256, 256)))
  # A residual block's first convolution runs around each open position.
  assert 20 <= int(head) < 100 * share < 100


@pytest.mark.slow
def test_caddet(capsys):
  caddet = importlib.import_module('caddet')
  case = caddet.Case({'num_layers': 1, 'channels': [8, 8]}, (64, 64), 1)
  caddet.benchmark('tiny', case, [0.5], 1)
  assert len(ratios(capsys)) == 5


@pytest.mark.slow
def test_conversion(capsys, tmp_path):
  for split in ('train', 'val'):
    dataset_files.write_image(tmp_path / f'images/{split}.jpg')
    dataset_files.write_coco(
        tmp_path, [dataset_files.coco_image(1, f'{split}.jpg')],
        [dataset_files.coco_annotation(1, 1, [1, 2, 3, 4], iscrowd=0, area=12)], splits=[split])
    (tmp_path / f'annotations/{split}.json').rename(
        tmp_path / f'annotations/instances_{split}.json')
  importlib.import_module('conversion').benchmark(tmp_path, 2, 1, False)
  assert len(ratios(capsys)) == 3 + 2


def test_winograd(capsys):
  winograd = importlib.import_module('winograd')
  winograd.measure_maps(
      winograd.make_parser().parse_args(['--maps', '8x12x4', '--repeats=1']), threads=1)
  line, = (line for line in capsys.readouterr().out.splitlines() if '8x12x4' in line)
  *_, expected, definition, fewer = line.split()
  assert float(expected) == 1  # not worth it
  assert 0 < float(definition) < 1e-6 and 0 < float(fewer) < 3e-6


def test_padding():
  padding = importlib.import_module('padding')
  figures = padding.measure(
      [(480, 640), (640, 480)], lambda _: padding.canvases.Canvas((800, 1333), (800, 1344)))
  # Wide: 800 x 1067.  Tall: 800 x 600 in the place of 1067 x 800.
  assert figures['wide'] == 1
  assert figures['tall'] == pytest.approx(800 * 600 / (1067 * 800))
  assert figures['input'] == pytest.approx(2 * 800 * 1344 / (800 * 1067 + 800 * 600))
