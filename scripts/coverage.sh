#!/bin/sh
# Which lines and branches of src/ the tests run, by gcov: built in the folder $1, told file by file, and as pages under
# $1/report. Fails below 95% of the lines or 85% of the branches.
#
#     coverage.sh BUILD [JOBS]
#
# Not run: the live tests, which need real MLX; `install`, whose programs are not linked with gcov; `limits`, which runs
# for minutes on what other tests reach. What a process did that SIGKILL ended is not counted.
set -eu

build=$1
jobs=${2:-$(nproc)}
cd "$(dirname "$0")/.."

cmake -G Ninja -S . -B "$build" -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=Debug -DMLXQ_COVERAGE=ON \
  -DBUILD_TESTING=ON >/dev/null
ninja -C "$build"
find "$build" -name '*.gcda' -delete
# A fault may hit gcov's own calls at the end of a process; what gcov says of it is not the command's.
(cd "$build" && GCOV_ERROR_FILE=/dev/null ctest -j "$jobs" --output-on-failure --no-tests=error \
  -E '^(live|install|limits)\.|^kernels\.neon$')

mkdir -p "$build/report"
set -- --exclude src/kernels/arm/
echo "not measured: src/kernels/arm (compiled for another processor; its test is kernels.neon)"
for level in avx2 avx512; do
  if ! "$build/mlxq" quantize examples/tiny-llama "$build/none" --dry-run --quiet --cpu $level >/dev/null 2>&1; then
    echo "not measured: src/kernels/x86/*$level* (this machine cannot run it)"
    set -- "$@" --exclude "src/kernels/x86/.*$level"
  fi
done
gcovr --root . --filter src/ "$@" --json "$build/report/coverage.json" "$build/CMakeFiles/mlxq_objects.dir"
gcovr --root . --add-tracefile "$build/report/coverage.json" --html-details "$build/report/index.html"
gcovr --root . --add-tracefile "$build/report/coverage.json" --branches
gcovr --root . --add-tracefile "$build/report/coverage.json" --print-summary --fail-under-line 95 --fail-under-branch 85
