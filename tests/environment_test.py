"""The check of the environment, and where data files are found."""
from importlib import metadata
import os
import pathlib
import subprocess
import sys

import pytest

from official_ext import environment


def fake_version(monkeypatch, version):
  def get(name):
    assert name == 'tf-models-official'
    if version is None:
      raise metadata.PackageNotFoundError(name)
    return version
  monkeypatch.setattr(metadata, 'version', get)


@pytest.mark.slow
def test_this_environment_passes():
  environment.check()


@pytest.mark.slow
def test_names_the_variable_when_keras_3_is_active():
  process = subprocess.run(
      [sys.executable, '-c', 'from official_ext import environment\nenvironment.check()'],
      env={**os.environ, 'TF_USE_LEGACY_KERAS': '0'}, capture_output=True, text=True)
  assert process.returncode == 1
  last = process.stderr.strip().splitlines()[-1]
  assert last.startswith('ImportError: Keras 3 is active')
  assert 'TF_USE_LEGACY_KERAS=1' in last


@pytest.mark.parametrize('version', ['2.19.1', '2.21.0', '2.2.0', '2.200.0'])
def test_names_both_versions_of_a_wrong_model_garden(monkeypatch, version):
  fake_version(monkeypatch, version)
  with pytest.raises(ImportError) as error:
    environment.check()
  assert f'needs tf-models-official 2.20, found {version}' in str(error.value)
  assert 'pip install' in str(error.value)


def test_names_a_missing_model_garden(monkeypatch):
  fake_version(monkeypatch, None)
  with pytest.raises(ImportError, match='2.20, which is not installed'):
    environment.check()


def test_data_path_of_this_checkout():
  path = environment.data_path('efficientnet_lite0_imagenet')
  assert (path / 'ckpt-1.index').is_file()
  assert (path / 'LICENSE').is_file()


def test_data_path_prefers_the_installed_package(monkeypatch, tmp_path):
  monkeypatch.setattr(environment, '__file__', str(tmp_path / 'official_ext/environment.py'))
  beside = tmp_path / 'data/weights'
  beside.mkdir(parents=True)
  assert environment.data_path('weights') == beside
  inside = tmp_path / 'official_ext/data/weights'
  inside.mkdir(parents=True)
  assert environment.data_path('weights') == inside


def test_data_path_names_both_places(monkeypatch, tmp_path):
  monkeypatch.setattr(environment, '__file__', str(tmp_path / 'official_ext/environment.py'))
  with pytest.raises(FileNotFoundError) as error:
    environment.data_path('weights')
  for place in ('official_ext/data/weights', 'data/weights'):
    assert str(pathlib.Path(tmp_path, place)) in str(error.value)
