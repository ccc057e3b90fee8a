"""Runs modules as commands, each in a fork of this process, which has imported them already.

It reads a JSON line for each command, the arguments of `python -m`, and writes one with the exit
status, the output and the errors.  Nothing here may run TensorFlow: a fork would hang.
"""
import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback


def _run(module, *arguments):
  """Runs a module as `python -m` does, and returns the exit status; to be called in a fork."""
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as end:
    return end.code if isinstance(end.code, int) else int(end.code is not None)
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def _fork(command):
  """Runs a command in a fork; returns its exit status, output and errors."""
  with tempfile.TemporaryFile('w+') as output, tempfile.TemporaryFile('w+') as errors:
    child = os.fork()
    if not child:
      os.dup2(output.fileno(), 1)
      os.dup2(errors.fileno(), 2)
      status = _run(*command)
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in (output, errors):
      file.seek(0)
      texts.append(file.read())
    return status, *texts


def main():
  for name in sys.argv[1:]:
    importlib.import_module(name)
  for line in sys.stdin:
    print(json.dumps(_fork(json.loads(line))), flush=True)


if __name__ == '__main__':
  main()
