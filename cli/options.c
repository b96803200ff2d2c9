/* The options of all commands: one table that parsing and help both read. */
#include "cli.h"
#include "print.h"

#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct option_row {
  char letter; /* names the option in a command's list */
  const char *name, *value, *help;
} option_row;

static const option_row OPTIONS[] = {
    {'A', "against", "DENSE", "compare with the dense original, a folder or a file: quantize it again"},
    {'m', "mode", "MODE", "affine, mxfp4, mxfp8 or nvfp4 (default: affine)"},
    {'b', "bits", "N", "bits of a code (default: the mode's): affine has 2, 3, 4, 5, 6 and 8"},
    {'g', "group-size", "N", "weights that share a scale (default: the mode's): affine has 32, 64 and 128"},
    {'p', "profile", "P", "cpu or gpu: which of MLX's back-ends to equal bit for bit (default: cpu)"},
    {'t', "dtype", "T",
     "float16, bfloat16 or float32: cast first, scales take it (default: config.json's torch_dtype)"},
    {'r', "recipe", "NAME", "mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6: more bits for the layers that matter most"},
    {'k', "skip", "GLOB", "keep matching layers dense; repeatable"},
    {'o', "override", "GLOB=SCHEME", "matching layers' own scheme, as bits:6,group_size:32,mode:affine; repeatable"},
    {'F', "from", "FORMAT", "awq or gptq (default: as config.json says, or the tensors)"},
    {'R', "requantize", "BITS",
     "dequantize and quantize anew, with a loss, the layers that MLX cannot hold as they are"},
    {'x', "exact", NULL, "one bit more a code where a bias would otherwise be rounded"},
    {'K', "stats", NULL, "measure the relative RMS error per layer kind"},
    {'a', "allow-nonfinite", NULL, "quantize groups that hold NaN or infinity to NaN instead of failing"},
    {'T', "threads", "N", "worker threads (default: one for each core)"},
    {'z', "max-shard-size", "SIZE", "in a folder, start a new file beyond it: 500M, 5G (default: 5G = 5 * 2^30 bytes)"},
    {'d', "dry-run", NULL, "plan, print the result, write nothing"},
    {'f', "force", NULL, "replace a checkpoint at DST"},
    {'P', "keep-partial", NULL, "on failure leave the unfinished .DST.mlxq-partial for the next run to go on with"},
    {'c', "cpu", "LEVEL", "highest instruction set to use (default: the best; also MLXQ_CPU): "},
    {'j', "json", NULL, "print the result (and an error) as one JSON object"},
    {'q', "quiet", NULL, "no progress"},
    {'h', "help", NULL, "show this help"},
};
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

/* What an option does in one command, where OPTIONS does not say it exactly. */
static const struct {
  char letter;
  const char *command, *help;
} OWN_HELP[] = {
    {'m', "dequantize", "how a single file is quantized: affine, mxfp4, mxfp8 or nvfp4 (default: affine)"},
    {'b', "dequantize", "a single file's bits of a code (default: the mode's)"},
    {'g', "dequantize", "a single file's weights that share a scale (default: the mode's)"},
    {'p', "verify", "with --against: the profile that SRC was made with, cpu or gpu (default: cpu)"},
    {'t', "dequantize",
     "float16, bfloat16 or float32: the result's; scales and biases are cast first (default: below)"},
    {'t', "import", "float16, bfloat16 or float32: cast scales, and all that is not packed (default: no cast)"},
    {'t', "verify", "with --against: the dtype that SRC was made with (default: DENSE's torch_dtype)"},
    {'f', "quantize", "replace a checkpoint at DST; and go on where a source is refused that may come out wrong"},
    {'f', "dequantize", "replace a checkpoint at DST; and go on where tensors alone look like another format's"},
    {'f', "import", "replace a checkpoint at DST; and go on where a model_type is refused that may come out wrong"},
    {'q', "inspect", "nothing: there is no progress"},
};

static const char *help_of(const option_row *row, const command *wanted) {
  for (size_t i = 0; i < sizeof OWN_HELP / sizeof *OWN_HELP; i++) {
    if (OWN_HELP[i].letter == row->letter && strcmp(OWN_HELP[i].command, wanted->name) == 0) return OWN_HELP[i].help;
  }
  return row->help;
}

void print_command_help(FILE *stream, const command *wanted) {
  fprintf(stream, "usage: mlxq %s %s [options]\n\n%s\n\n", wanted->name, wanted->places, wanted->summary);
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    const option_row *row = &OPTIONS[i];
    if (!strchr(wanted->options, row->letter)) continue;
    char left[64];
    snprintf(left, sizeof left, "--%s%s%s", row->name, row->value ? " " : "", row->value ? row->value : "");
    fprintf(stream, "  %-24s %s", left, help_of(row, wanted));
    for (size_t level = 0; row->letter == 'c' && mlxq_cpu_level(level); level++) {
      fprintf(stream, "%s%s", level > 0 ? ", " : "", mlxq_cpu_level(level));
    }
    fputc('\n', stream);
  }
  if (*wanted->more) fprintf(stream, "\n%s", wanted->more);
}

/* Reports wrong usage; `key` is the option or argument at fault. */
static int fail(mlxq_status status, const char *key, const command *wanted, bool json, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static int fail(mlxq_status status, const char *key, const command *wanted, bool json, const char *format, ...) {
  mlxq_error error = {.status = status};
  char reason[MLXQ_ERROR_MESSAGE_BYTES / 2];
  va_list values;
  va_start(values, format);
  vsnprintf(reason, sizeof reason, format, values);
  va_end(values);
  char message[sizeof error.message];
  snprintf(message, sizeof message, "%s (see mlxq %s --help)", reason, wanted->name);
  set_escaped(error.key, sizeof error.key, key);
  set_escaped(error.message, sizeof error.message, message);
  print_error(&error, json);
  return EXIT_USAGE;
}

/* Reports a value that an option cannot take, for a reason such as "is not a number" or "unknown dtype". */
static int fail_value(mlxq_status status, const char *option, const command *wanted, bool json, const char *value,
                      const char *reason) {
  if (strncmp(reason, "is ", 3) == 0) return fail(status, option, wanted, json, "'%s' %s", value, reason);
  return fail(status, option, wanted, json, "%s: '%s'", reason, value);
}

/* What to say of an option that mlx_lm.convert has under another name; "" for others. */
static const char *habit_of(const char *option) {
  static const struct {
    const char *theirs, *hint;
  } HABITS[] = {{"--hf-path", "; the first argument is the source, a folder on this machine"},
                {"--mlx-path", "; the second argument is the destination"},
                {"--q-bits", "; it is --bits here"},
                {"--q-group-size", "; it is --group-size here"},
                {"--q-mode", "; it is --mode here"},
                {"--quant-predicate", "; it is --recipe here"},
                {"--quantize", "; the command is mlxq quantize"},
                {"--dequantize", "; the command is mlxq dequantize"}};
  size_t length = strcspn(option, "=");
  for (size_t i = 0; i < sizeof HABITS / sizeof *HABITS; i++) {
    if (strlen(HABITS[i].theirs) == length && strncmp(option, HABITS[i].theirs, length) == 0) return HABITS[i].hint;
  }
  return "";
}

static bool parse_number(const char *text, long *number) {
  char *end;
  if (*text < '0' || *text > '9') return false;
  *number = strtol(text, &end, 10);
  return *end == '\0' && *number <= INT32_MAX;
}

static bool parse_size(const char *text, uint64_t *bytes) {
  static const char UNITS[] = "KMGT";
  char *end;
  if (*text < '0' || *text > '9') return false;
  unsigned long long number = strtoull(text, &end, 10);
  const char *unit = *end ? strchr(UNITS, toupper((unsigned char)*end)) : NULL;
  unsigned shift = unit ? 10 * (unsigned)(unit - UNITS + 1) : 0;
  if (unit) end += strcmp(end + 1, "iB") == 0 ? 3 : 1;
  if (*end || number == 0 || number > (UINT64_MAX >> 1) >> shift) return false;
  *bytes = (uint64_t)number << shift;
  return true;
}

static bool parse_dtype(const char *text, mlxq_dtype *dtype) {
  static const struct {
    const char *name;
    mlxq_dtype dtype;
  } NAMES[] = {{"float16", MLXQ_F16}, {"bfloat16", MLXQ_BF16}, {"float32", MLXQ_F32},
               {"f16", MLXQ_F16},     {"bf16", MLXQ_BF16},     {"f32", MLXQ_F32}};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    if (strcmp(text, NAMES[i].name) == 0) {
      *dtype = NAMES[i].dtype;
      return true;
    }
  }
  return false;
}

/* Reads "bits:6,group_size:32,mode:affine"; what is left out is the mode's default. Changes `text`. */
static const char *parse_scheme(char *text, mlxq_scheme *scheme) {
  bool has_mode = false;
  *scheme = (mlxq_scheme){.mode = MLXQ_AFFINE};
  for (char *rest = text, *part; (part = strsep(&rest, ","));) {
    char *value = strchr(part, ':');
    long number = 0;
    if (!value) return "each part of a scheme is KEY:VALUE, as in bits:6";
    *value++ = '\0';
    if (strcmp(part, "mode") == 0) {
      if (mlxq_mode_parse(&scheme->mode, value, NULL) != MLXQ_OK) return "unknown mode";
      has_mode = true;
    } else if (strcmp(part, "bits") == 0) {
      if (!parse_number(value, &number) || number == 0) return "bits is not a positive number";
      scheme->bits = (int32_t)number;
    } else if (strcmp(part, "group_size") == 0) {
      if (!parse_number(value, &number) || number == 0) return "group_size is not a positive number";
      scheme->group_size = (int32_t)number;
    } else {
      return "the keys of a scheme are bits, group_size and mode";
    }
  }
  if (!has_mode && scheme->bits == 0 && scheme->group_size == 0) return "the scheme is empty";
  *scheme = mlxq_scheme_complete(scheme);
  return NULL;
}

/* The text after the last '=' is the scheme: a GLOB may hold one. Splits `text` in place. */
static const char *parse_override(char *text, mlxq_override *override) {
  char *equals = strrchr(text, '=');
  if (!equals || equals == text) return "is not GLOB=SCHEME";
  *equals = '\0';
  override->pattern = text;
  return parse_scheme(equals + 1, &override->scheme);
}

/* Applies one option. Returns NULL, or why its value is wrong; `*status` then says of which sort it is. */
static const char *apply(arguments *parsed, char letter, char *value, mlxq_status *status) {
  mlxq_quantize_options *options = &parsed->quantize;
  mlxq_convert_options *common = &options->common;
  long number = 0;
  *status = MLXQ_USAGE;
  switch (letter) {
    case 'A':
      parsed->against = value;
      return NULL;
    case 'm':
      parsed->has_scheme = true;
      *status = mlxq_mode_parse(&options->scheme.mode, value, NULL);
      return *status == MLXQ_OK ? NULL : "unknown mode; affine, mxfp4, mxfp8 and nvfp4 are known";
    case 'b':
    case 'g':
      parsed->has_scheme = true;
      if (!parse_number(value, &number) || number == 0) return "is not a positive number";
      *(letter == 'b' ? &options->scheme.bits : &options->scheme.group_size) = (int32_t)number;
      return NULL;
    case 'p':
      *status = MLXQ_UNKNOWN_VALUE;
      if (strcmp(value, "cpu") != 0 && strcmp(value, "gpu") != 0) return "unknown profile; cpu and gpu are known";
      parsed->has_profile = true;
      common->profile = *value == 'g' ? MLXQ_PROFILE_GPU : MLXQ_PROFILE_CPU;
      return NULL;
    case 't':
      *status = MLXQ_UNKNOWN_VALUE;
      if (!parse_dtype(value, &parsed->dtype)) return "unknown dtype; float16, bfloat16 and float32 are known";
      common->dtype = &parsed->dtype;
      return NULL;
    case 'r':
      options->recipe = value;
      return NULL;
    case 'k':
      parsed->skips[options->skip_count++] = value;
      return NULL;
    case 'o':
      return parse_override(value, &parsed->overrides[options->override_count++]);
    case 'F':
      parsed->from = value;
      return NULL;
    case 'R':
      if (!parse_number(value, &number) || number == 0) return "is not a positive number";
      parsed->requantize_bits = (int32_t)number;
      return NULL;
    case 'x':
      parsed->exact = true;
      return NULL;
    case 'K':
      options->stats = true;
      return NULL;
    case 'a':
      common->allow_nonfinite = true;
      return NULL;
    case 'T':
      if (!parse_number(value, &number) || number == 0) return "is not a positive number";
      common->threads = (unsigned)number;
      return NULL;
    case 'z':
      return parse_size(value, &common->max_shard_bytes) ? NULL : "is not a size such as 500M or 5G";
    case 'd':
      common->dry_run = true;
      return NULL;
    case 'f':
      common->force = true;
      return NULL;
    case 'P':
      common->keep_partial = true;
      return NULL;
    case 'c':
      common->cpu = value;
      return NULL;
    case 'j':
      parsed->json = true;
      return NULL;
    case 'q':
      parsed->quiet = true;
      return NULL;
    default:
      parsed->help = true;
      return NULL;
  }
}

/* Takes the arguments that are no options. */
static int take_places(arguments *parsed, const command *wanted, int argc, char **argv, bool json) {
  bool needs_destination = strstr(wanted->places, "DST") != NULL;
  int places = needs_destination ? 2 : 1, given = argc - optind;
  if (parsed->help) return 0;
  if (given > places) return fail(MLXQ_USAGE, argv[optind + places], wanted, json, "one argument too many");
  if (given < 1) return fail(MLXQ_USAGE, "SRC", wanted, json, "missing");
  if (given < places) return fail(MLXQ_USAGE, "DST", wanted, json, "missing");
  parsed->source = argv[optind];
  if (needs_destination) parsed->destination = argv[optind + 1];
  return 0;
}

/* Whether an option was given by its whole name: getopt takes any beginning that is unique, but what is unique today
 * may not be tomorrow. */
static bool is_whole_name(const char *token, char letter) {
  if (letter == 'h' && strncmp(token, "--", 2) != 0) return true; /* the one short option */
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    size_t length = strlen(OPTIONS[i].name);
    if (OPTIONS[i].letter != letter) continue;
    return strncmp(token, "--", 2) == 0 && strncmp(token + 2, OPTIONS[i].name, length) == 0 &&
           (token[2 + length] == '\0' || token[2 + length] == '=');
  }
  return false;
}

/* What no checkpoint can have is wrong usage, whatever SRC holds. `override` is NULL, or the pattern it is for. */
static int check_scheme(const mlxq_scheme *scheme, const char *option, const char *override, const command *wanted,
                        bool json) {
  mlxq_error error;
  mlxq_status status = mlxq_scheme_check(scheme, &error);
  if (status == MLXQ_OK) return 0;
  if (!option) option = strcmp(error.key, "bits") == 0 ? "--bits" : "--group-size";
  if (!override) return fail(status, option, wanted, json, "%s", error.message);
  return fail(status, option, wanted, json, "%s: '%s'", error.message, override);
}

static int check_schemes(const arguments *parsed, const command *wanted, bool json) {
  const mlxq_quantize_options *options = &parsed->quantize;
  const mlxq_scheme scheme = mlxq_scheme_complete(&options->scheme);
  const mlxq_scheme requantized = {MLXQ_AFFINE, parsed->requantize_bits, 64};
  if (parsed->help) return 0;
  int failed = check_scheme(&scheme, NULL, NULL, wanted, json);
  for (size_t i = 0; !failed && i < options->override_count; i++) {
    failed = check_scheme(&options->overrides[i].scheme, "--override", options->overrides[i].pattern, wanted, json);
  }
  if (failed || parsed->requantize_bits == 0) return failed;
  return check_scheme(&requantized, "--requantize", NULL, wanted, json);
}

/* Options that mean nothing without another, or with it. */
static int check_company(const arguments *parsed, const command *wanted, bool json) {
  const mlxq_convert_options *common = &parsed->quantize.common;
  if (parsed->help) return 0;
  if (parsed->quantize.stats && common->dry_run) {
    return fail(MLXQ_USAGE, "--stats", wanted, json, "nothing is quantized with --dry-run, and so nothing measured");
  }
  if (!strchr(wanted->options, 'A') || parsed->against) return 0;
  if (parsed->has_profile) return fail(MLXQ_USAGE, "--profile", wanted, json, "goes with --against");
  return common->dtype ? fail(MLXQ_USAGE, "--dtype", wanted, json, "goes with --against") : 0;
}

int arguments_parse(arguments *parsed, const command *wanted, int argc, char **argv) {
  struct option long_options[OPTION_COUNT + 1] = {{0}};
  bool json = wants_json(argc, argv);
  size_t count = 0, most = (size_t)argc;
  *parsed = (arguments){.quantize = MLXQ_QUANTIZE_OPTIONS_INIT};
  const char *cpu = getenv("MLXQ_CPU");
  if (cpu && *cpu) parsed->quantize.common.cpu = cpu;
  parsed->skips = calloc(most, sizeof *parsed->skips);
  parsed->overrides = calloc(most, sizeof *parsed->overrides);
  if (!parsed->skips || !parsed->overrides) {
    mlxq_error error = {.status = MLXQ_NO_MEMORY, .message = "out of memory"};
    return print_error(&error, json);
  }
  parsed->quantize.skips = parsed->skips;
  parsed->quantize.overrides = parsed->overrides;
  for (size_t i = 0; i < OPTION_COUNT; i++) {
    if (!strchr(wanted->options, OPTIONS[i].letter)) continue;
    long_options[count++] =
        (struct option){OPTIONS[i].name, OPTIONS[i].value ? required_argument : no_argument, NULL, OPTIONS[i].letter};
  }
  opterr = 0;
  optind = 1;
  for (;;) {
    int letter = getopt_long(argc, argv, ":h", long_options, NULL);
    if (letter == -1) break;
    const char *given = argv[optind - 1];
    bool is_long = strncmp(given, "--", 2) == 0;
    if (letter == '?' && optopt && is_long) return fail(MLXQ_USAGE, given, wanted, json, "takes no value");
    /* Of letters in one word, all but the last leave getopt before that word. */
    if (letter == '?' && optopt && (*given != '-' || !strchr(given, optopt))) given = argv[optind];
    if (letter == '?') return fail(MLXQ_USAGE, given, wanted, json, "unknown option%s", habit_of(given));
    if (letter == ':') return fail(MLXQ_USAGE, given, wanted, json, "a value is missing");
    const char *token = argv[optind - 1 - (optarg && optarg == argv[optind - 1])];
    if (!is_whole_name(token, (char)letter)) return fail(MLXQ_USAGE, token, wanted, json, "unknown option");
    mlxq_status status;
    char name[32] = "--", *value = optarg;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
      if (OPTIONS[i].letter == letter) snprintf(name + 2, sizeof name - 2, "%s", OPTIONS[i].name);
    }
    char *whole = value ? strdup(value) : NULL;
    const char *reason = apply(parsed, (char)letter, value, &status);
    int failed = reason ? fail_value(status, name, wanted, json, whole ? whole : "", reason) : 0;
    free(whole);
    if (failed) return failed;
  }
  int failed = check_schemes(parsed, wanted, json);
  if (!failed) failed = check_company(parsed, wanted, json);
  return failed ? failed : take_places(parsed, wanted, argc, argv, json);
}

void arguments_free(arguments *parsed) {
  free(parsed->skips);
  free(parsed->overrides);
}
