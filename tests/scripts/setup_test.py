"""The shell scripts: what they say when something is missing, and how .venv is made."""
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted(CHECKOUT.glob('scripts/*.sh')), CHECKOUT / '.ci/run']


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """A folder with only the files that setup.sh reads."""
  shutil.copytree(CHECKOUT / 'scripts', tmp_path / 'scripts')
  for name in ('setup.py', 'constraints.txt'):
    shutil.copy(CHECKOUT / name, tmp_path)
  return tmp_path


def setup(checkout, **environment):
  return subprocess.run(
      ['bash', checkout / 'scripts/setup.sh'], capture_output=True, text=True, cwd='/',
      env={**os.environ, **environment})


@pytest.fixture
def finished(checkout) -> pathlib.Path:
  """A checkout with a finished .venv, whose pip only writes its arguments to a file."""
  log = checkout / 'pip.log'
  python = checkout / 'python'
  python.write_text(f"""#!/bin/bash
if [[ $1 == -m && $2 == venv ]]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && ln -s python "$3/bin/pip"
elif [[ $1 == -m && $2 == pip ]]; then
  echo "$@" >>{log}
  exit "${{PIP_STATUS:-0}}"
else
  exec {sys.executable} "$@"
fi
""")
  python.chmod(0o755)
  process = setup(checkout, PYTHON=str(python))
  assert process.returncode == 0, process.stderr
  assert 'a few minutes' in process.stdout and '3.3 GB' in process.stdout
  assert log.read_text().count('install') == 1
  return checkout


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_strict(path):
  assert os.access(path, os.X_OK)
  assert 'set -euo pipefail' in path.read_text()
  subprocess.run(['bash', '-n', path], check=True)


def test_build_check_says_that_there_is_no_bazel(tmp_path):
  (tmp_path / 'dirname').symlink_to(shutil.which('dirname'))
  process = subprocess.run(
      [shutil.which('bash'), CHECKOUT / 'scripts/check_build.sh'], capture_output=True, text=True,
      env={'PATH': str(tmp_path)}, check=False)
  assert process.returncode == 0, process.stderr
  assert process.stdout == 'BUILD was not checked: there is no bazel on this machine.\n'


def test_says_that_no_python_fits_and_removes_nothing(checkout):
  (checkout / '.venv').mkdir()
  (checkout / '.venv/mine').touch()
  process = setup(checkout, PYTHON='false')
  assert process.returncode == 1
  assert len(process.stderr.splitlines()) == 1
  assert '3.11 or 3.12' in process.stderr and '(false)' in process.stderr
  assert (checkout / '.venv/mine').exists()


def test_second_time_does_nothing(finished):
  process = setup(finished, PYTHON='false')
  assert (process.returncode, process.stdout, process.stderr) == (0, '', '')


def test_changed_requirements_are_installed_into_the_same_environment(finished):
  (finished / '.venv/mine').touch()
  with (finished / 'constraints.txt').open('a') as file:
    file.write('ruff<2\n')
  assert setup(finished, PYTHON='false').returncode == 0
  assert (finished / '.venv/mine').exists()
  assert (finished / 'pip.log').read_text().count('install') == 2


def test_killed_setup_is_redone(finished):
  (finished / '.venv/.official_ext_unfinished').touch()
  (finished / '.venv/half_installed').touch()
  process = setup(finished, PYTHON=str(finished / 'python'))
  assert process.returncode == 0, process.stderr
  assert not (finished / '.venv/half_installed').exists()
  assert setup(finished).stdout == ''


def test_failed_install_is_repeated_without_starting_over(finished):
  (finished / 'constraints.txt').write_text('')
  (finished / '.venv/mine').touch()
  process = setup(finished, PIP_STATUS='1')
  assert process.returncode == 1
  assert process.stderr.startswith('error: pip could not install')
  assert 'Ready' in setup(finished).stdout
  assert (finished / '.venv/mine').exists()
