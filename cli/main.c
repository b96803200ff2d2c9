/* mlxq: the table of commands. */
#include "cli.h"
#include "print.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static const command COMMANDS[] = {
    {"quantize", "SRC DST", "quantize a checkpoint to an MLX format", "mbgprokKtTzdfPaqjch",
     "Defaults: affine 4 bits group 64, mxfp4 4/32, mxfp8 8/32, nvfp4 4/16.\n"
     "In a folder the layers are quantized that mlx_lm.convert would quantize; in a single file every floating "
     ".weight\n"
     "of two or more dimensions whose last axis the group size divides.\n"
     "A layer is skipped, or takes the last override that matches, or the recipe, or the default.\n"
     "In a GLOB `*` crosses dots: 'model.layers.*.mlp.down_proj'. Paths are those of the result: experts are stacked "
     "as\n"
     "'*.switch_mlp.down_proj'. A dry run lists them.\n",
     quantize, print_conversion, NULL},
    {"dequantize", "SRC DST", "turn a quantized MLX checkpoint into a dense one", "mbgptTzdfPqjch",
     "A folder's schemes are in its config.json; a single file needs one of --mode, --bits and --group-size, and all "
     "its\n"
     "layers must be of that scheme. Without --dtype affine layers get config.json's torch_dtype, in a single file "
     "the\n"
     "dtype of their scales, and the scale-only modes (mxfp4, mxfp8, nvfp4) bfloat16, as mlx-lm does.\n",
     dequantize, print_conversion, NULL},
    {"import", "SRC DST", "turn an AWQ or GPTQ checkpoint into an MLX one, code for code", "FtpRxTzdfPqjch",
     "Codes and scales are kept as they are; a bias is -(zero point * scale), rounded to the dtype of the scales, and\n"
     "exact for symmetric checkpoints. Tensors that are not packed keep their bytes unless --dtype is given.\n"
     "AWQ: gemm, gemv and gemv_fast. GPTQ: 2, 3, 4 and 8 bits, v1 and v2.\n",
     import, print_conversion, NULL},
    {"inspect", "SRC", "show what is in a checkpoint: tensors, schemes, bits per weight, size", "qjh", "", inspect,
     print_inspection, NULL},
    {"verify", "SRC", "check that a checkpoint is whole, or equal to what its dense original gives", "AptTcqjh",
     "Checks headers, index, config.json, every layer's tensors, and every number. Exit status 0: whole; 1: defects, "
     "one\n"
     "line each. --against quantizes DENSE again, in memory, as SRC's config.json says, and compares bit by bit;\n"
     "--profile and --dtype are then those that SRC was made with.\n"
     "Layers in another tool's format (AWQ, GPTQ, FP8) are not checked. Shapes are not compared with config.json's\n"
     "dimensions; a tensor that one layer lacks and all others have is a note.\n",
     NULL, NULL, verify},
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof *COMMANDS };

static void print_help(FILE *stream) {
  fputs("mlxq: quantize, dequantize, import, inspect and verify language-model checkpoints in MLX's formats\n\n",
        stream);
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    fprintf(stream, "  mlxq %-10s %-8s  %s\n", COMMANDS[i].name, COMMANDS[i].places, COMMANDS[i].summary);
  }
  fputs(
      "\nSRC is a folder (config.json, *.safetensors) or one .safetensors file; DST is then a folder or a file, and "
      "must\n"
      "not exist. `mlxq COMMAND --help` lists a command's options; `mlxq --version` prints the version.\n",
      stream);
}

static int fail_usage(int argc, char **argv, const char *key, const char *reason) {
  mlxq_error error = {.status = MLXQ_USAGE};
  set_escaped(error.key, sizeof error.key, key);
  snprintf(error.message, sizeof error.message, "%s (see mlxq --help)", reason);
  return print_error(&error, wants_json(argc, argv));
}

/* A command from start to end: arguments, work, output. */
static int run(const command *wanted, int argc, char **argv) {
  arguments parsed;
  mlxq_report *report = NULL;
  mlxq_error error;
  int exit_status = arguments_parse(&parsed, wanted, argc, argv);
  if (exit_status != 0) goto cleanup;
  if (parsed.help) {
    print_command_help(stdout, wanted);
    exit_status = finish_output(false, NULL);
    goto cleanup;
  }
  if (wanted->run) {
    exit_status = wanted->run(&parsed);
    goto cleanup;
  }
  if (parsed.destination)
    watch_start(&parsed.quantize.common, parsed.quiet, "written"); /* inspecting leaves nothing to clean up */
  mlxq_status status = wanted->work(&report, &parsed, &error);
  watch_stop();
  if (status != MLXQ_OK) {
    exit_status = print_error(&error, parsed.json);
    goto cleanup;
  }
  wanted->print(&parsed, report);
  exit_status = finish_output(parsed.json, parsed.quantize.common.dry_run ? NULL : parsed.destination);
cleanup:
  mlxq_report_free(report);
  arguments_free(&parsed);
  return exit_status;
}

/* A file opened as descriptor 1 or 2 would get what is printed. Descriptors that came closed are opened so that using
 * them fails as before. */
static bool occupy_standard_descriptors(void) {
  static const int UNUSABLE[] = {O_WRONLY, O_RDONLY, O_RDONLY};
  for (int fd = 0; fd < 3; fd++) {
    if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", UNUSABLE[fd]) != fd) return false;
  }
  return true;
}

int main(int argc, char **argv) {
  if (!occupy_standard_descriptors()) return EXIT_FAILED;
  if (argc < 2) return fail_usage(argc, argv, "", "a command is needed");
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
    for (size_t i = 0; argc > 2 && i < COMMAND_COUNT; i++) {
      if (strcmp(argv[2], COMMANDS[i].name) != 0) continue;
      print_command_help(stdout, &COMMANDS[i]);
      return finish_output(false, NULL);
    }
    if (argc > 2 && strcmp(argv[1], "help") == 0) return fail_usage(argc, argv, argv[2], "unknown command");
    print_help(stdout);
    return finish_output(false, NULL);
  }
  if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
    printf("mlxq %s\n", mlxq_version());
    return finish_output(false, NULL);
  }
  for (size_t i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(argv[1], COMMANDS[i].name) == 0) return run(&COMMANDS[i], argc - 1, argv + 1);
  }
  return fail_usage(argc, argv, argv[1], "unknown command");
}
