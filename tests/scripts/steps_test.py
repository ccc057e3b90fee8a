"""Steps run commands in processes of their own, and say which of them failed."""
import multiprocessing
import sys

import pytest
import steps

from official_ext.utils import command_line


@pytest.mark.slow
def test_a_step_runs_as_a_command_and_has_its_time(tmp_path, capfd):
  job = steps.Steps(total=2)
  log = tmp_path / 'logs' / 'errors.txt'
  own_arguments = list(sys.argv)
  job.run('show', 'tools.show_config', log=log, experiment='fcos_fpn_efficientnetlite0_sample')
  with pytest.raises(command_line.CommandError) as failed:
    job.run('show another', 'tools.show_config', log=log, experiment='no_such')
  said = capfd.readouterr().out
  assert ('[1/2] show: python -m official_ext.tools.show_config '
          '--experiment=fcos_fpn_efficientnetlite0_sample') in said
  assert 'num_classes:' in said
  assert list(job.seconds) == ['show'] and job.seconds['show'] > 0
  last, = log.read_text().splitlines()
  assert 'no_such' in last
  assert (f"the step 'show another' ended with status 2. {log} says: {last}"
          in str(failed.value))
  assert sys.argv == own_arguments


def test_a_step_removes_what_was_to_be_removed_at_its_end(tmp_path, monkeypatch):
  (tmp_path / 'leaves_a_file.py').write_text(
      'import atexit, os, sys\n'
      'open(sys.argv[1], "w").close()\n'
      'atexit.register(os.remove, sys.argv[1])\n'
      'sys.exit(3)\n')
  monkeypatch.syspath_prepend(tmp_path)
  process = multiprocessing.get_context('forkserver').Process(
      target=steps.run_module, args=('leaves_a_file', [str(tmp_path / 'left')], None))
  process.start()
  process.join()
  assert process.exitcode == 3
  assert not (tmp_path / 'left').exists()


@pytest.mark.parametrize('errors, expected', [
    ('', 'no message'),
    ('Traceback\nValueError: b\n', 'ValueError: b'),
    ('I1201 13:03 a\nerror: loss is NaN\nI1201 13:03:38.4 13 helper.py:402] the end\n',
     'error: loss is NaN'),
    ('KeyError: 1\nW1201 13:03:38.4 13 helper.py:402] the end', 'KeyError: 1'),
    ('train.py: error: no such flag\nbye', 'train.py: error: no such flag'),
    ('I1201 13:03:38.4 13 helper.py:402] the end', 'I1201 13:03:38.4 13 helper.py:402] the end')])
def test_the_reason_of_a_failure_is_not_what_threads_log_after_it(errors, expected):
  assert steps.reason(errors) == expected


def test_values_become_arguments():
  assert steps._flags('data', 'x') == ['--data=x']
  assert steps._flags('evaluate', True) == ['--evaluate']
  assert steps._flags('network', [['a', 1], ['b', 2]]) == [
      '--network', 'a', '1', '--network', 'b', '2']
