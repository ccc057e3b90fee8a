"""Zip files: what could leave the folder, links, encryption, size and damage are refused."""
import stat
import zipfile

import pytest

from official_ext.datasets.sources import archives
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line


def write_zip(path, *members):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for member in members:
      archive.writestr(member, b'x' * 1000)
  return path


def unpack(tmp_path, *members, limit=1.0):
  target = tmp_path / 'inside' / 'target'
  target.mkdir(parents=True)
  archives.unpack_zip(write_zip(tmp_path / 'a.zip', *members), target, limit)
  return sorted(path.relative_to(target).as_posix() for path in target.rglob('*')
                if path.is_file())


@pytest.mark.parametrize('name', ['../x', 'a/../../x', '/x', '..\\x', 'C:\\x', 'C:/x', '\\x'])
def test_members_that_lead_elsewhere_are_refused(tmp_path, name):
  with pytest.raises(command_line.CommandError, match='outside of its folder'):
    unpack(tmp_path, 'good.txt', name)
  assert sorted(path.name for path in tmp_path.rglob('*')) == ['a.zip', 'inside', 'target']


def test_links_are_refused(tmp_path):
  link = zipfile.ZipInfo('link')
  link.external_attr = (stat.S_IFLNK | 0o777) << 16
  with pytest.raises(command_line.CommandError, match="'link' is a symbolic link"):
    unpack(tmp_path, link)


def test_the_size_is_limited(tmp_path):
  with pytest.raises(command_line.CommandError, match=r'2e-06 GB unpacked.*--max_unpacked_gb'):
    unpack(tmp_path, 'a', 'b', limit=1.5e-6)
  assert not list((tmp_path / 'inside' / 'target').iterdir())


def test_names_are_unpacked_as_they_are_meant(tmp_path):
  names = ['d/ä.txt', 'd\\b.txt', '.DS_Store', '__MACOSX/d/._b.txt', 'd/._c.txt']
  assert unpack(tmp_path, *names) == ['d/b.txt', 'd/ä.txt']


def test_damage_and_two_files_of_one_name_are_refused(tmp_path):
  with pytest.raises(command_line.CommandError, match='two files of the name'):
    unpack(tmp_path, 'a/b', 'a\\b')
  whole = write_zip(tmp_path / 'b.zip', 'a').read_bytes()
  for content in (b'', whole[:-10], whole.replace(b'\xab', b'\xac', 1), b'PK\3\4'):
    (tmp_path / 'b.zip').write_bytes(content)
    with pytest.raises(command_line.CommandError, match='not a folder or a zip file'):
      with data_folder.open_input(tmp_path / 'b.zip'):
        pass


def test_messages_name_the_zip_file(tmp_path):
  path = write_zip(tmp_path / 'c.zip', 'top/a.txt')
  with pytest.raises(command_line.CommandError) as error:
    with data_folder.open_input(path) as data:
      assert data.files == ['a.txt'] and data.shown('a.txt') == f'{path}/a.txt'
      raise command_line.CommandError(f'{data.path("a.txt")} is wrong')
  assert str(error.value) == f'{path}/a.txt is wrong'
