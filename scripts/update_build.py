"""Writes BUILD from the files of the checkout: run it after adding a command or a test.

    python scripts/update_build.py
"""
import pathlib

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent

HEADER = """\
# Written by scripts/update_build.py: run it after adding a command or a test.
#
# The packages that setup.py asks for come from the Python toolchain that Bazel uses.

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

licenses(["notice"])

py_library(
    name = "official_ext",
    srcs = glob(["official_ext/**/*.py"]),
    data = glob(["data/**"]),
    imports = ["."],
)

filegroup(
    name = "checkout",
    srcs = glob([
        "*",
        ".ci/*",
        "configs/**",
        "scripts/*",
    ]),
)

# pytest itself, and what the tests share.
py_library(
    name = "test_support",
    testonly = True,
    srcs = glob(
        ["tests/**/*.py"],
        exclude = ["tests/**/*_test.py"],
    ),
    data = [":checkout"],
    imports = ["tests"],
    deps = [":official_ext"],
)
"""

BINARY = """\
py_binary(
    name = "{name}",
    srcs = ["{path}"],
    main = "{path}",
    deps = [":official_ext"],
)
"""

TEST = """\
py_test(
    name = "{name}",
    size = "{size}",
    srcs = [
        "tests/bazel_main.py",
        "{path}",
    ],
    args = ["$(rootpath {path})"],
    data = ["{path}"],
    main = "tests/bazel_main.py",
    deps = [":test_support"],
)
"""


def commands(checkout: pathlib.Path) -> list[str]:
  """The modules that can be run, as paths relative to the checkout."""
  return sorted(
      path.relative_to(checkout).as_posix() for path in checkout.glob('official_ext/**/*.py')
      if "\nif __name__ == '__main__':" in path.read_text(encoding='utf-8'))


def build_text(checkout: pathlib.Path) -> str:
  """What BUILD has to say about a checkout.

  Args:
    checkout: the folder that holds `official_ext/` and `tests/`.

  Returns:
    The text of the file.
  """
  parts = [HEADER]
  for path in commands(checkout):
    parts.append(BINARY.format(name=path.removesuffix('.py'), path=path))
  for test in sorted(checkout.glob('tests/**/*_test.py')):
    path = test.relative_to(checkout).as_posix()
    size = 'large' if 'pytest.mark.slow' in test.read_text(encoding='utf-8') else 'medium'
    parts.append(TEST.format(name=path.removesuffix('.py'), path=path, size=size))
  return '\n'.join(parts)


if __name__ == '__main__':
  (CHECKOUT / 'BUILD').write_text(build_text(CHECKOUT), encoding='utf-8')
