#!/bin/sh
# The digest of the library's source that a journal's key holds (CMakeLists.txt): what changes src/ or include/ changes
# it, at the next build and without being asked; a change of anything else, or another place, does not.
#   sources_digest.sh SOURCE_FOLDER
set -eu

source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The digest that a build of $1 compiles with, its build files brought up to date as every build does.
digest() {
  if [ -f "$1/b/build.ninja" ]; then
    ninja -C "$1/b" build.ninja >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  else
    cmake -G Ninja -S "$1" -B "$1/b" -DBUILD_TESTING=OFF >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  fi
  sed -n 's/.*MLXQ_SOURCES_DIGEST=\\*"*\([0-9a-f]\{64\}\).*/\1/p' "$1/b/build.ninja"
}

expect() {
  [ "$2" "$3" "$4" ] || { echo "$1: '$2' $3 '$4' does not hold"; exit 1; }
}

for place in one two; do
  mkdir "$work/$place"
  for part in CMakeLists.txt LICENSE cmake cli include src; do cp -R "$source/$part" "$work/$place/"; done
done
first=$(digest "$work/one")
expect "a digest" "${#first}" = 64
expect "another place" "$(digest "$work/two")" = "$first"
sleep 1 # ninja goes by the time of files
echo '/* changed */' >>"$work/one/cli/main.c"
touch "$work/one/src/run/run.c"
expect "another part" "$(digest "$work/one")" = "$first"
for changed in src/kernels/ref/group.c src/base/file.h src/kernels/kernels.def include/mlxq/scheme.h; do
  sleep 1
  echo '/* changed */' >>"$work/one/$changed"
  next=$(digest "$work/one")
  expect "$changed" "$next" != "$first"
  first=$next
done
