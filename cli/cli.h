/* What the commands share: options, progress, and the ways results and errors are printed (docs/cli.md). */
#ifndef MLXQ_CLI_CLI_H
#define MLXQ_CLI_CLI_H

#include <mlxq/mlxq.h>
#include <stdio.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* Everything that the command line can say. */
typedef struct arguments {
  const char *source, *destination;
  const char *against;            /* verify */
  mlxq_quantize_options quantize; /* its `common` serves every command */
  mlxq_dtype dtype;               /* `quantize.common.dtype` points here once --dtype is given */
  const char **skips;
  mlxq_override *overrides;
  bool has_scheme;  /* --mode, --bits or --group-size was given */
  bool has_profile; /* --profile was given */
  const char *from; /* import */
  int32_t requantize_bits;
  bool exact;
  bool json, quiet, help;
} arguments;

/* One command of the table in main.c: its help, the call of the library it stands for, and how the result is shown. */
typedef struct command {
  const char *name;
  const char *places; /* "SRC DST" */
  const char *summary;
  const char *options; /* the letters of OPTIONS in options.c that it takes */
  const char *more;    /* further help, or "" */
  mlxq_status (*work)(mlxq_report **report, const arguments *parsed, mlxq_error *error);
  void (*print)(const arguments *parsed, const mlxq_report *report);
  int (*run)(
      arguments *parsed); /* in place of both, for a result of another kind: works, prints, gives the exit status */
} command;

/* Reads the command line of a command. On failure the error is filled and the exit status returned; 0 otherwise. The
 * caller releases `arguments` with arguments_free in either case. */
int arguments_parse(arguments *parsed, const command *wanted, int argc, char **argv);
void arguments_free(arguments *parsed);

/* The help of one command, from its row and the options it takes. */
void print_command_help(FILE *stream, const command *wanted);

/* Prints an error on stderr, as a line or as JSON, and returns the exit status that fits. */
int print_error(const mlxq_error *error, bool json);

/* Whether --json stands anywhere in the command line: errors in it must already be JSON. */
bool wants_json(int argc, char **argv);

/* Installs progress, warnings and the handling of SIGINT and SIGTERM in the options. `done` is what is done to the
 * bytes that progress counts: "written". */
void watch_start(mlxq_convert_options *options, bool quiet, const char *done);
void watch_stop(void);

/* cmd_quantize.c, cmd_dequantize.c, cmd_import.c, cmd_inspect.c */
mlxq_status quantize(mlxq_report **report, const arguments *parsed, mlxq_error *error);
mlxq_status dequantize(mlxq_report **report, const arguments *parsed, mlxq_error *error);
mlxq_status import(mlxq_report **report, const arguments *parsed, mlxq_error *error);
mlxq_status inspect(mlxq_report **report, const arguments *parsed, mlxq_error *error);
int verify(arguments *parsed); /* cmd_verify.c */
void print_inspection(const arguments *parsed, const mlxq_report *report);

/* Flushes stdout; a failure is an error like any other. `complete` is what the command has made all the same, or NULL.
 */
int finish_output(bool json, const char *complete);

/* Prints what a conversion did, or would do. */
void print_conversion(const arguments *parsed, const mlxq_report *report);

#endif
