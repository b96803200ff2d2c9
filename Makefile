# The two commands: `make demo` and `make test`. CMake does the work; this file sets things up for it.

BUILD := build
JOBS := $(shell nproc)
# The checkout is the sample's home; its result goes here.
DEMO := $(BUILD)/demo
SOURCES = $(shell find include src cli tests fuzz bench -name '*.[ch]')
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 1800

.PHONY: all demo test test-long analyze coverage test-threads test-valgrind fuzz lint format bench install clean dependencies \
  test-dependencies

all: dependencies $(BUILD)/build.ninja
	@ninja -C $(BUILD)

dependencies:
	@scripts/install-dependencies.sh

test-dependencies:
	@scripts/install-dependencies.sh test
	@scripts/make-venv.sh $(BUILD)/venv

$(BUILD)/build.ninja:
	@cmake -G Ninja -S . -B $(BUILD) -DBUILD_TESTING=OFF >/dev/null

# Quantizes the bundled model, and shows what came out.
demo: all
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BUILD)/mlxq inspect examples/tiny-llama
	@echo
	$(BUILD)/mlxq quantize examples/tiny-llama $(DEMO)/tiny-llama-4bit --stats --quiet
	@echo
	$(BUILD)/mlxq inspect $(DEMO)/tiny-llama-4bit
	@echo
	@du -sh --apparent-size examples/tiny-llama $(DEMO)/tiny-llama-4bit

# Style, then everything but the live tests under sanitizers and compiled by clang, then every test.
test: test-dependencies lint
	@cmake -G Ninja -S . -B $(BUILD)/clang -DCMAKE_C_COMPILER=clang -DMLXQ_WERROR=ON >/dev/null
	@ninja -C $(BUILD)/clang
	@cmake -G Ninja -S . -B $(BUILD)/sanitize -DCMAKE_BUILD_TYPE=Debug -DMLXQ_SANITIZE=ON -DMLXQ_WERROR=ON >/dev/null
	@ninja -C $(BUILD)/sanitize
	@cd $(BUILD)/sanitize && ctest -j $(JOBS) --output-on-failure --no-tests=error
	@cmake -G Ninja -S . -B $(BUILD) -DBUILD_TESTING=ON -DMLXQ_WERROR=ON -DMLXQ_CROSS_TESTS=ON \
	  -DMLXQ_PYTHON=$(CURDIR)/$(BUILD)/venv/bin/python >/dev/null
	@ninja -C $(BUILD)
	@cd $(BUILD) && ctest -j $(JOBS) --output-on-failure --no-tests=error

lint: test-dependencies
	@clang-format --dry-run -Werror $(SOURCES)
	@cmake -G Ninja -S . -B $(BUILD)/tidy -DCMAKE_C_COMPILER=clang -DBUILD_TESTING=OFF \
	  -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null
	@find src cli -name '*.c' ! -path 'src/kernels/arm/*' | xargs -P $(JOBS) -n 4 clang-tidy --quiet -p $(BUILD)/tidy
	@cppcheck -j $(JOBS) --enable=warning,performance,portability --std=c11 --quiet --error-exitcode=1 -Iinclude -Isrc src cli
	@clang-tidy --quiet src/kernels/arm/*.c -- --target=aarch64-linux-gnu -std=c17 -D_GNU_SOURCE -Iinclude -Isrc

format:
	@clang-format -i $(SOURCES)

# What gcc's analyzer finds.
analyze: test-dependencies
	@scripts/analyze.sh

# All tests under ThreadSanitizer.
test-threads: test-dependencies
	@cmake -G Ninja -S . -B $(BUILD)/tsan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMLXQ_SANITIZE=thread -DMLXQ_WERROR=ON >/dev/null
	@ninja -C $(BUILD)/tsan
	@cd $(BUILD)/tsan && ctest -j $(JOBS) --output-on-failure --no-tests=error

# The command-line cases under valgrind.
test-valgrind: test-dependencies
	@scripts/install-dependencies.sh long
	@cmake -G Ninja -S . -B $(BUILD)/valgrind -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF >/dev/null
	@ninja -C $(BUILD)/valgrind
	@tests/cli/valgrind.sh $(BUILD)/valgrind/mlxq $(BUILD)/valgrind/memcheck

# Which lines and branches of src/ the tests run; fails where they are too few (docs/reliability.md).
coverage: test-dependencies
	@scripts/install-dependencies.sh coverage
	@scripts/coverage.sh $(BUILD)/coverage $(JOBS)

# What takes longer than a commit should wait for.
test-long: test analyze coverage test-threads test-valgrind
	@python3 tests/faults/run.py --mlxq $(BUILD)/mlxq --shim $(BUILD)/tests/fault_shim.so --examples examples
	@$(BUILD)/tests/checkkern --long
	@case $$(uname -m) in aarch64 | arm64) ;; \
	  *) tests/checkkern/neon.sh aarch64-linux-gnu-gcc qemu-aarch64 --long ;; esac
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600

# Every fuzzer for FUZZ_SECONDS.
fuzz:
	@scripts/install-dependencies.sh fuzz
	@cmake -G Ninja -S . -B $(BUILD)/fuzz -DCMAKE_C_COMPILER=clang -DMLXQ_SANITIZE=ON -DMLXQ_FUZZ=ON >/dev/null
	@ninja -C $(BUILD)/fuzz
	@scripts/fuzz.sh $(BUILD)/fuzz $(FUZZ_SECONDS)

# mlxq beside mlx_lm.convert, in one run; see bench/README.md.
bench: test-dependencies
	@cmake -G Ninja -S . -B $(BUILD) -DBUILD_TESTING=ON >/dev/null
	@ninja -C $(BUILD)
	@$(BUILD)/tests/checkkern --bench
	@for options in "" "--profile gpu" "--dtype F16" "--dtype F32"; do \
	  $(BUILD)/venv/bin/python bench/compare_kernels.py --rounds 3 $$options \
	    --library "$$(ls $(BUILD)/libmlxq.so $(BUILD)/libmlxq.dylib 2>/dev/null | head -n 1)" || exit; done
	@$(BUILD)/bench/import_tiles
	@bench/without_division.sh affine4 affine8 nvfp4
	@$(BUILD)/venv/bin/python bench/make_llama.py $(BUILD)/bench/llama
	@$(BUILD)/venv/bin/python bench/compare_convert.py --mlxq $(BUILD)/mlxq --model $(BUILD)/bench/llama
	@$(BUILD)/venv/bin/python bench/make_awq.py $(BUILD)/bench/awq
	@$(BUILD)/venv/bin/python bench/compare_import.py --mlxq $(BUILD)/mlxq --model $(BUILD)/bench/awq
	@bench/on_tmpfs.sh $(BUILD)/venv/bin/python $(BUILD)/mlxq $(BUILD)/bench/llama
	@$(BUILD)/venv/bin/python bench/compare_copy.py --mlxq $(BUILD)/mlxq --model $(BUILD)/bench/llama --on $(BUILD)/bench --rest 3
	@$(BUILD)/venv/bin/python bench/growth.py --mlxq $(BUILD)/mlxq --on $(BUILD)/bench

install: all
	@DESTDIR=$(DESTDIR) cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	@rm -rf $(BUILD)
