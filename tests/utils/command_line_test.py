"""Commands end with one line and a status that says why; progress is told at fixed times."""
import errno
import io
import os
import subprocess
import sys
import time

import pytest

from official_ext.ops import checks
from official_ext.utils import command_line


def fail_with(error):
  def main():
    raise error
  return main


class Clock:
  """Replaces `time.monotonic`."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: self.now)


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_say_writes_one_line(capsys):
  command_line.say('42 images')
  assert capsys.readouterr() == ('42 images\n', '')


def test_success_returns(capsys):
  command_line.run(lambda: command_line.say('done'))
  assert capsys.readouterr() == ('done\n', '')


def test_command_error_is_one_line_and_status_2(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.run(fail_with(command_line.CommandError('no images in x:\n  give --image_dir')))
  assert exit_.value.code == 2
  assert capsys.readouterr() == ('', 'error: no images in x: give --image_dir\n')


def test_the_error_is_the_last_line():
  code = ('import atexit, logging\n'
          'from official_ext.utils import command_line\n'
          'logging.basicConfig()\n'
          'log = logging.getLogger("tensorflow")\n'
          'log.warning("before")\n'
          'atexit.register(log.warning, "a value was not restored")\n'
          'def main(): raise command_line.CommandError("no checkpoint")\n'
          'command_line.run(main)\n')
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert result.stderr == 'WARNING:tensorflow:before\nerror: no checkpoint\n'


@pytest.mark.parametrize('code, advice', [
    (errno.ENOSPC, 'free some space'), (errno.EACCES, 'that you may use')])
def test_refused_file_is_one_line(capsys, code, advice):
  with pytest.raises(SystemExit) as exit_:
    command_line.run(fail_with(OSError(code, os.strerror(code), 'out/model')))
  assert exit_.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith('error: out/model: ') and advice in error and error.count('\n') == 1


@pytest.mark.parametrize('error', [ValueError('a defect'), FileNotFoundError(errno.ENOENT, 'x')])
def test_defect_keeps_its_traceback(error):
  with pytest.raises(type(error)) as caught:
    command_line.run(fail_with(error))
  assert caught.value is error


def test_option_that_is_not_allowed_is_one_line_with_its_field(capsys):

  def build():
    with checks.naming_field('task.budget'):
      checks.check_one_of('kind', 'shar', ['share'])

  with pytest.raises(SystemExit) as exit_:
    command_line.run(build)
  assert exit_.value.code == 2
  assert capsys.readouterr().err == (
      "error: kind is 'shar'; allowed are 'share'. Change task.budget.kind.\n")


def test_interrupt_is_one_line(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.run(fail_with(KeyboardInterrupt()))
  assert exit_.value.code == 130
  assert capsys.readouterr().err == 'error: interrupted\n'


def test_error_erases_an_unfinished_progress_line(monkeypatch):
  monkeypatch.setattr(sys, 'stderr', Terminal())
  with pytest.raises(SystemExit):
    command_line.run(fail_with(command_line.CommandError('bad')))
  assert sys.stderr.getvalue() == '\r\033[Kerror: bad\n'


def test_sigterm_unwinds_and_the_old_handler_comes_back():
  # In a process of its own, because the signal would end the one that runs the tests.
  text = ('import os, signal, time\n'
          'from official_ext.utils import command_line\n'
          'def old(*_): pass\n'
          'def main():\n'
          '  try:\n'
          '    os.kill(os.getpid(), signal.SIGTERM)\n'
          '    time.sleep(60)\n'
          '  finally:\n'
          '    print("unwound")\n'
          'signal.signal(signal.SIGTERM, old)\n'
          'try:\n'
          '  command_line.run(main)\n'
          'finally:\n'
          '  print(signal.getsignal(signal.SIGTERM) is old)\n')
  process = subprocess.run(
      [sys.executable, '-c', text], capture_output=True, text=True, timeout=50)
  assert (process.returncode, process.stdout, process.stderr) == (143, 'unwound\nTrue\n', '')


def test_reader_that_stops_early_is_no_error():
  text = ('from official_ext.utils import command_line\n'
          'def main():\n'
          '  for line in range(10**6):\n'
          '    command_line.say(str(line))\n'
          'command_line.run(main)\n')
  process = subprocess.Popen(
      [sys.executable, '-c', text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.stdout.readline() == b'0\n'
  process.stdout.close()
  assert process.stderr.read() == b''
  process.stderr.close()
  assert process.wait(timeout=60) == 141


@pytest.mark.parametrize('seconds, text', [
    (0, '0:00'), (59.4, '0:59'), (59.6, '1:00'), (3599, '59:59'), (3661, '1:01:01')])
def test_duration(seconds, text):
  assert command_line.duration(seconds) == text


def test_progress_tells_the_time_left(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  items = []
  for item in command_line.progress('abcd', 'converting'):
    items.append(item)
    clock.now += 15
  assert items == list('abcd')
  assert capsys.readouterr() == ('', (
      'converting: 1/4, 0:45 left   \n'
      'converting: 2/4, 0:30 left   \n'
      'converting: 3/4, 0:15 left   \n'
      'converting: 4/4, took 1:00   \n'))


def test_progress_is_quiet_between_reports(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  for _ in command_line.progress(iter(range(100)), 'reading', total=100):
    clock.now += 0.5
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
      'reading: 21/100, 0:40 left   ', 'reading: 42/100, 0:29 left   ',
      'reading: 63/100, 0:18 left   ', 'reading: 84/100, 0:08 left   ',
      'reading: 100/100, took 0:50   ']


def test_progress_keeps_one_line_on_a_terminal(monkeypatch):
  clock = Clock(monkeypatch)
  monkeypatch.setattr(sys, 'stderr', Terminal())
  for _ in command_line.progress(range(3), 'drawing'):
    clock.now += 1
  assert sys.stderr.getvalue() == (
      'drawing: 1/3, 0:02 left   \rdrawing: 2/3, 0:01 left   \rdrawing: 3/3, took 0:03   \n')


def test_progress_of_nothing(capsys):
  assert list(command_line.progress([], 'converting')) == []
  assert capsys.readouterr() == ('', '')
