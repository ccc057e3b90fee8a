"""Files under their final names are never half-written, whatever goes wrong."""
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys

import pytest

from official_ext.utils import command_line
from official_ext.utils import files

# Writes half of a file and of a folder, says so, and waits for a signal.
WRITER = """
import pathlib, sys, time
from official_ext.utils import command_line, files
def main():
  with files.atomic_file(sys.argv[1]) as file, files.atomic_directory(sys.argv[2]) as folder:
    file.write_text('half')
    (folder / 'weights').write_text('half')
    command_line.say('writing')
    time.sleep(60)
command_line.run(main)
"""


def write_and_end(tmp_path, signal_number) -> subprocess.Popen:
  """Starts a process that writes `report.json` and `model`, and ends it half-way by a signal."""
  process = subprocess.Popen(
      [sys.executable, '-c', WRITER, tmp_path / 'report.json', tmp_path / 'model'],
      stdout=subprocess.PIPE, text=True)
  with process.stdout:
    assert process.stdout.readline() == 'writing\n'
    process.send_signal(signal_number)
    process.wait(timeout=60)
  return process


def names(folder) -> set[str]:
  return {path.name for path in folder.iterdir()}


def make_old(tmp_path) -> None:
  (tmp_path / 'report.json').write_text('old')
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model/weights').write_text('old')


def check_old(tmp_path) -> None:
  assert (tmp_path / 'report.json').read_text() == 'old'
  assert names(tmp_path / 'model') == {'weights'}
  assert (tmp_path / 'model/weights').read_text() == 'old'


def test_file_appears_when_complete(tmp_path):
  path = tmp_path / 'deep/er/report.json'
  with files.atomic_file(path) as temporary:
    assert temporary.parent == path.parent
    assert temporary.suffix == '.json'
    assert temporary.name.startswith('.')
    temporary.write_text('new')
    assert not path.exists()
  assert path.read_text() == 'new'
  assert names(path.parent) == {'report.json'}


def test_directory_appears_when_complete(tmp_path):
  path = tmp_path / 'deep/er/model'
  with files.atomic_directory(path) as temporary:
    (temporary / 'weights').write_text('new')
    assert not path.exists()
  assert (path / 'weights').read_text() == 'new'
  assert names(path.parent) == {'model'}


def test_old_is_replaced_as_a_whole(tmp_path):
  make_old(tmp_path)
  (tmp_path / 'model/stale').touch()
  with files.atomic_file(tmp_path / 'report.json') as temporary:
    temporary.write_text('new')
  with files.atomic_directory(tmp_path / 'model') as temporary:
    (temporary / 'weights').write_text('new')
  assert (tmp_path / 'report.json').read_text() == 'new'
  assert names(tmp_path / 'model') == {'weights'}
  assert names(tmp_path) == {'report.json', 'model'}


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exception_keeps_the_old_and_leaves_nothing(tmp_path, error):
  make_old(tmp_path)
  with pytest.raises(error), files.atomic_file(tmp_path / 'report.json') as temporary:
    temporary.write_text('half')
    raise error
  with pytest.raises(error), files.atomic_directory(tmp_path / 'model') as temporary:
    (temporary / 'weights').write_text('half')
    raise error
  check_old(tmp_path)
  assert names(tmp_path) == {'report.json', 'model'}


def test_failed_rename_puts_the_old_back(tmp_path, monkeypatch):
  make_old(tmp_path)
  replace, targets = os.replace, []

  def fail_second(source, target):
    targets.append(target)
    if len(targets) == 2:
      raise OSError('no')
    replace(source, target)

  monkeypatch.setattr(os, 'replace', fail_second)
  with pytest.raises(OSError, match='no'), files.atomic_directory(tmp_path / 'model') as temporary:
    (temporary / 'weights').write_text('new')
  assert len(targets) == 3
  check_old(tmp_path)
  assert names(tmp_path) == {'report.json', 'model'}


def test_terminated_command_leaves_nothing(tmp_path):
  make_old(tmp_path)
  assert write_and_end(tmp_path, signal.SIGTERM).returncode == 143
  check_old(tmp_path)
  assert names(tmp_path) == {'report.json', 'model'}


def test_kill_leaves_the_old_and_the_next_write_tidies_up(tmp_path):
  make_old(tmp_path)
  assert write_and_end(tmp_path, signal.SIGKILL).returncode == -signal.SIGKILL
  check_old(tmp_path)
  assert len(names(tmp_path)) == 4
  with files.atomic_file(tmp_path / 'report.json') as temporary:
    temporary.write_text('new')
  with files.atomic_directory(tmp_path / 'model'):
    pass
  assert names(tmp_path) == {'report.json', 'model'}


def dead_process() -> int:
  process = subprocess.Popen([sys.executable, '-c', ''])
  process.wait()
  return process.pid


def test_kill_between_the_two_renames_is_mended(tmp_path):
  make_old(tmp_path)
  aside = tmp_path / f'.model.{socket.gethostname()}-{dead_process()}-replaced-0123abcd'
  os.replace(tmp_path / 'model', aside)
  with pytest.raises(RuntimeError), files.atomic_directory(tmp_path / 'model'):
    check_old(tmp_path)
    raise RuntimeError
  check_old(tmp_path)
  assert names(tmp_path) == {'report.json', 'model'}


def test_temporaries_of_others_stay(tmp_path):
  dead = dead_process()
  others = {
      f'.model.{socket.gethostname()}-1-new-0123abcd',  # A living process.
      f'.model.elsewhere-{dead}-new-0123abcd',  # Another machine on a shared disk.
      f'.weights.{socket.gethostname()}-{dead}-new-0123abcd',  # Another path.
      '.model.backup', 'model.old'}
  for name in others:
    (tmp_path / name).mkdir()
  with files.atomic_directory(tmp_path / 'model'):
    pass
  assert names(tmp_path) == others | {'model'}


def test_permissions_are_the_usual_ones(tmp_path):
  (tmp_path / 'usual_folder').mkdir()
  (tmp_path / 'usual_file').touch()
  with files.atomic_directory(tmp_path / 'model'), files.atomic_file(tmp_path / 'report'):
    pass
  for made, usual in (('model', 'usual_folder'), ('report', 'usual_file')):
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (made, usual)]
    assert modes[0] == modes[1]


def test_refuses_a_folder_for_a_file_and_the_reverse(tmp_path):
  make_old(tmp_path)
  with (pytest.raises(command_line.CommandError, match='is a file'),
        files.atomic_directory(tmp_path / 'report.json')):
    pass
  with (pytest.raises(command_line.CommandError, match='is a folder'),
        files.atomic_file(tmp_path / 'model')):
    pass
  check_old(tmp_path)


@pytest.mark.parametrize('inside', ['', 'deep/er'])
def test_refuses_to_replace_where_you_stand(tmp_path, monkeypatch, inside):
  work = tmp_path / 'here'
  (work / inside).mkdir(parents=True)
  (work / 'mine').touch()
  monkeypatch.chdir(work / inside)
  with (pytest.raises(command_line.CommandError, match='current directory'),
        files.atomic_directory(work)):
    pass
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(pathlib.Path, 'home', lambda: work)
  with (pytest.raises(command_line.CommandError, match='home directory'),
        files.atomic_directory(work)):
    pass
  assert (work / 'mine').exists()


@pytest.mark.parametrize('name', ['data[v2]', 'x*y', 'q?', 'back\\slash'])
def test_a_plain_path_leads_to_the_same_place_until_the_process_ends(tmp_path, name):
  folder = tmp_path / name / 'model, "A"'
  plain = pathlib.Path(files.plain_path(folder))
  assert not set('[*?\\') & set(str(plain))
  plain.mkdir()
  (plain / 'ckpt').write_text('weights')
  assert (folder / 'ckpt').read_text() == 'weights'
  assert files.plain_path(folder / 'ckpt') == str(plain / 'ckpt')
  code = f'from official_ext.utils import files; print(files.plain_path({str(folder)!r}))'
  printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  link = pathlib.Path(printed.stdout.strip())
  assert link.name == 'model, "A"' and not link.parent.parent.exists()
  assert (folder / 'ckpt').read_text() == 'weights'


@pytest.mark.parametrize('path', ['runs/dyfpn', "/a b/O'Neil, #1 100% {}:", 'gs://bucket/x[1]'])
def test_a_path_that_is_no_pattern_stays_as_it_is(path):
  assert files.plain_path(path) == path


@pytest.mark.parametrize('place', ['report.json', 'report.json/deep/er'])
def test_nothing_is_made_below_a_file(tmp_path, place):
  """One sentence, and not the system's error, before and while something is written."""
  make_old(tmp_path)
  for call in (files.make_folder, lambda path: files.check_own_output(path / 'x', 'marker', []),
               lambda path: files.check_place(path, '--flag=x'),
               lambda path: files.check_file(path / 'x', '--flag')):
    with pytest.raises(command_line.CommandError, match='through folders only'):
      call(tmp_path / place)
  for write in (files.atomic_file, files.atomic_directory):
    with pytest.raises(command_line.CommandError, match='through folders only'):
      with write(tmp_path / place / 'x'):
        raise AssertionError('there is no place to write to')
  check_old(tmp_path)


def test_a_folder_without_permission_is_refused_at_once(tmp_path, monkeypatch):
  files.check_place(tmp_path / 'new/er', '--model_dir=x')
  files.check_file(tmp_path / 'new.json', '--json')
  files.make_folder(tmp_path / 'made/twice')
  files.make_folder(tmp_path / 'made/twice')
  asked = []

  def access(path, mode):
    asked.append((path, mode))
    return False

  monkeypatch.setattr(os, 'access', access)
  with pytest.raises(command_line.CommandError, match=f'--model_dir=x .*written in {tmp_path}:'):
    files.check_place(tmp_path / 'new/er', '--model_dir=x')
  assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_folder_is_no_file(tmp_path):
  with pytest.raises(command_line.CommandError, match='--json=.* is a folder'):
    files.check_file(tmp_path, '--json')


@pytest.mark.parametrize('paths, expected', [
    (['a/b', 'a/c'], ['b', 'c']), (['a/m', 'b/m'], ['a/m', 'b/m']), (['a'], ['a']),
    (['x/a/m', 'y/a/m', 'n'], ['x/a/m', 'y/a/m', 'n'])])
def test_short_names(paths, expected, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  names = files.short_names([pathlib.Path(path) for path in paths])
  assert [name.split('/')[-1] for name in names] == [name.split('/')[-1] for name in expected]
  assert all(name.endswith(wanted) for name, wanted in zip(names, expected))
  with pytest.raises(command_line.CommandError, match='twice'):
    files.short_names([pathlib.Path('a'), pathlib.Path('a')])


def test_what_a_command_reads_is_not_replaced(tmp_path):
  """A folder that the command may replace holds its input: the input would be lost."""
  own, other = tmp_path / 'own', tmp_path / 'other'
  for folder in (own / 'drawn', other):
    folder.mkdir(parents=True)
  (own / 'marker').touch()
  (tmp_path / 'link').symlink_to(own / 'drawn')
  for read in (own / 'drawn' / 'photo.jpg', own, tmp_path / 'link', other / '..' / 'own'):
    with pytest.raises(command_line.CommandError, match='--output_dir=.*would be replaced as a '):
      files.check_own_output(own, 'marker', ['drawn'], reads=[other, str(read)])
  files.check_own_output(
      own, 'marker', ['drawn'], reads=[other, tmp_path, tmp_path / 'owner', 'relative'])


@pytest.mark.parametrize('name, is_kept', [
    ('notes.txt', True), ('.git/HEAD', True), ('old.json', True), ('drawn/photo.jpg', False),
    ('part-1.bin', False), ('.DS_Store', False)])
def test_what_a_command_has_not_written_is_not_lost(tmp_path, name, is_kept):
  file = tmp_path / name
  file.parent.mkdir(exist_ok=True)
  for path in (file, tmp_path / 'marker'):
    path.touch()
  writes = ['drawn', 'part-*.bin']
  if not is_kept:
    files.check_own_output(tmp_path, 'marker', writes)
    return
  with pytest.raises(command_line.CommandError, match=(
      f'--output_dir=.* has not written {name.split("/")[0]} in it, which would be lost')):
    files.check_own_output(tmp_path, 'marker', writes)


def test_of_many_files_three_are_named(tmp_path):
  for name in ('marker', 'd', 'a', 'c', 'b'):
    (tmp_path / name).touch()
  with pytest.raises(command_line.CommandError, match=r'written a, b, c, \.\.\. in it'):
    files.check_own_output(tmp_path, 'marker', [])


def test_of_a_link_what_it_leads_to_is_replaced(tmp_path):
  disk = tmp_path / 'disk'
  (disk / 'folder').mkdir(parents=True)
  (disk / 'file').write_text('old')
  for name in ('folder', 'file', 'new'):
    (tmp_path / name).symlink_to(disk / name)
  for name in ('folder', 'new'):
    with files.atomic_directory(tmp_path / name) as temporary:
      (temporary / 'content').write_text('new')
    assert (disk / name / 'content').read_text() == 'new'
  with files.atomic_file(tmp_path / 'file') as temporary:
    temporary.write_text('new')
  assert (disk / 'file').read_text() == 'new'
  assert all((tmp_path / name).is_symlink() for name in ('folder', 'file', 'new'))
  assert {path.name for path in disk.iterdir()} == {'folder', 'file', 'new'}
