#!/usr/bin/env bash
# Loads BUILD with the Bazel of this machine, if it has one (Debian: apt install bazel-bootstrap).
# Bazel works on links to the checkout in a temporary folder, without the network: there,
# Bazel's own Python rules stand in for rules_python. Used with Bazel 4.2.3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v bazel >/dev/null; then
  echo 'BUILD was not checked: there is no bazel on this machine.'
  exit 0
fi

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder" && rm -rf "$folder"' EXIT
mkdir -p "$folder/workspace" "$folder/rules_python/python"
for path in BUILD setup.py .ci benchmarks configs data docs official_ext scripts tests; do
  ln -s "$PWD/$path" "$folder/workspace/$path"
done
echo "local_repository(name = 'rules_python', path = '../rules_python')" \
  >"$folder/workspace/WORKSPACE"
touch "$folder/rules_python/WORKSPACE" "$folder/rules_python/python/BUILD"
for rule in py_binary py_library py_test; do
  echo "$rule = native.$rule"
done >"$folder/rules_python/python/defs.bzl"

cd "$folder/workspace"
query() {
  # Debian's Bazel is started with options that its Java deprecates.
  bazel --batch --output_user_root="$folder/cache" query --noshow_progress "$@" \
    2> >(grep -v '^OpenJDK .* warning:' >&2)
}
targets=$(query //...)
# Bazel takes any label of this package for a file; whether it exists is first asked in a build.
labels=$(query 'kind("source file", labels(srcs, //...) + labels(data, //...) + labels(deps, //...))')
while IFS= read -r label; do
  if [[ ! -f ${label#//:} ]]; then
    echo "error: BUILD names ${label#//:}, which does not exist." >&2
    exit 1
  fi
done <<<"$labels"
echo "BUILD has $(wc -l <<<"$targets") targets, made from $(wc -l <<<"$labels") files."
