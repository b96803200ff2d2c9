# What the cases share. Loaded by run.sh, before `cmd`, in the temporary folder.

mlxq() {
  "$MLXQ" "$@"
}

# tensors FILE NAME:DTYPE:DIMS[:FILL]...   (see make_safetensors.py)
tensors() {
  "$PYTHON" "$CLI_TESTS/make_safetensors.py" "$@"
}

# helper NAME ARGUMENTS...: one of the Python scripts beside this file
helper() {
  name=$1
  shift
  "$PYTHON" "$CLI_TESTS/$name.py" "$@"
}

# llama FOLDER [MEMBERS]: a small dense model, bfloat16. MEMBERS are further members of config.json (with a comma).
llama() {
  mkdir -p "$1"
  cat >"$1/config.json" <<END
{"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16"${2-}}
END
  tensors "$1/model.safetensors" model.embed_tokens.weight:BF16:64x64 \
    model.layers.0.self_attn.v_proj.weight:BF16:32x64 model.layers.0.mlp.down_proj.weight:BF16:64x128 \
    model.layers.0.input_layernorm.weight:BF16:64 model.layers.1.self_attn.v_proj.weight:BF16:32x64 \
    model.layers.1.mlp.down_proj.weight:BF16:64x128 model.layers.1.input_layernorm.weight:BF16:64 \
    model.norm.weight:BF16:64 lm_head.weight:BF16:64x64
}

# packed FOLDER BLOCK TENSOR...: a quantized model, BLOCK being its `quantization`
packed() {
  mkdir -p "$1"
  echo "{\"model_type\": \"llama\", \"quantization\": $2}" >"$1/config.json"
  (folder=$1 && shift 2 && tensors "$folder/model.safetensors" "$@")
}

# Prints a file of JSON with sorted keys, or the value under a path of keys in it: json FILE [KEY]...
json() {
  "$PYTHON" -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value[int(key)] if isinstance(value, list) else value[key]
print(json.dumps(value, sort_keys=True))' "$@"
}

# shows COMMAND...: the command and its exit status beside its output, for cases of more than one command
shows() {
  shows_status=0
  "$@" || shows_status=$?
  echo "exit $shows_status"
  return $shows_status
}

# fails COMMAND...: a command that must fail, as text and with --json; then all that is in the folder, so that a
# destination or a hidden .DST.mlxq-partial cannot stay unseen. Returns the command's status.
fails() {
  shows "$@" || :
  shows "$@" --json || :
  fails_status=$shows_status
  ls -A
  return $fails_status
}

# verifies SRC [OPTION]...: as text and with --json; returns the exit status
verifies() {
  shows mlxq verify "$@" --quiet || :
  shows mlxq verify "$@" --quiet --json
}

# poke FILE TENSOR OFFSET=HEX...: changes bytes (see poke.py)
poke() {
  helper poke "$@"
}

# Tensors of a file or folder, one a line: name, dtype, shape, file
list() {
  mlxq inspect "$1" --json >.list.json && "$PYTHON" -c '
import json, sys
for tensor in json.load(open(".list.json"))["tensors"]:
    print(tensor["file"], tensor["name"], tensor["dtype"], "x".join(map(str, tensor["shape"])))'
  rm -f .list.json
}

# The sanitizers map terabytes and cannot run under ulimit -v; they can refuse large allocations on their own.
# with_little_memory COMMAND...: at most 40 MB, and no allocation above 40 MB
with_little_memory() {
  if grep -q -e __asan_init -e __tsan_init "$MLXQ"; then
    little_options=allocator_may_return_null=1:max_allocation_size_mb=40
    ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}$little_options" \
      TSAN_OPTIONS="${TSAN_OPTIONS:+$TSAN_OPTIONS:}$little_options" "$@" 2>.raw
    little_status=$?
    grep -v -e '^==.*WARNING: [A-Z][a-z]*Sanitizer' -e '^ *#[0-9]' .raw >&2
    rm -f .raw
    return $little_status
  fi
  (ulimit -v 40000 && "$@")
}

# little_disk SIZE COMMAND...: a command that finds a file system in memory of SIZE at disk/, of its own; then what is
# left there. Needs a user namespace where such may be mounted; without one the case is skipped, and says so.
little_disk() {
  mkdir -p disk
  unshare -Urm mount -t tmpfs little disk 2>/dev/null || exit 77
  unshare -Urm sh -c 'mount -t tmpfs -o size="$0" little disk && "$@"; status=$?; ls -A disk; exit $status' "$@"
}

# The instruction sets that --cpu names and this machine has, or the one of CPU_FLAGS
cpu_levels() {
  cpu_flags=${CPU_FLAGS-$(grep -m 1 '^flags' /proc/cpuinfo 2>/dev/null)} || cpu_flags=
  echo ref
  for level in avx2:avx2:fma:f16c avx512:avx2:fma:f16c:avx512f:avx512bw:avx512dq:avx512vl; do
    for flag in $(echo "${level#*:}" | tr : ' '); do
      case " $cpu_flags " in *" $flag "*) ;; *) continue 2 ;; esac
    done
    echo "${level%%:*}"
  done
  case $(uname -m) in aarch64 | arm64) echo neon ;; esac
}

# slow FOLDER: a model of which four files are finished at once, and the three of the last layer take a while, with
# --max-shard-size 9K
slow() {
  llama "$1"
  tensors "$1/model.safetensors" model.embed_tokens.weight:F32:64x64 \
    model.layers.0.input_layernorm.weight:F32:4096 model.layers.1.input_layernorm.weight:F32:4097 \
    model.norm.weight:F32:4098 lm_head.weight:F32:8192x2048:hole
}

# killed DST N COMMAND...: kills a command once N files of DST are finished
killed() {
  destination=$1
  count=$2
  shift 2
  helper meddle "$destination" "kill=$count" "$@" --threads 1 --cpu ref --max-shard-size 9K --quiet
  echo "exit $?"
}

# resumed FILE: how much the conversion whose --json output this is had to write, and did not
resumed() {
  "$PYTHON" -c 'import json, sys; report = json.load(open(sys.argv[1])); print("resumed", report["resumed_bytes"])' "$1"
}

# foreign FOLDER BLOCK TENSOR...: a small llama in another format, BLOCK being its `quantization_config`
foreign() {
  mkdir -p "$1"
  echo "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"torch_dtype\": \"float16\", \"quantization_config\": $2}" \
    >"$1/config.json"
  (folder=$1 && shift 2 && tensors "$folder/model.safetensors" "$@")
}

# The bytes of a tensor, as hexadecimal digits: hex FILE NAME
hex() {
  "$PYTHON" -c '
import json, struct, sys
data = open(sys.argv[1], "rb").read()
length = struct.unpack("<Q", data[:8])[0]
begin, end = json.loads(data[8:8 + length])[sys.argv[2]]["data_offsets"]
print(sys.argv[2], data[8 + length + begin:8 + length + end].hex())' "$@"
}
