/* Watching a conversion: progress and warnings on stderr, and stopping at SIGINT and SIGTERM. */
#include "cli.h"
#include "print.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

/* The process runs one command; there is one watch. */
static struct {
  bool terminal, bar_shown;
  int tenths; /* the last tenth that got a line */
  void (*old_pipe_handler)(int);
  struct timespec start, last;
} watch;

static void on_signal(int number) {
  (void)number;
  interrupted = 1;
}

static bool is_cancelled(void *user) {
  (void)user;
  return interrupted != 0;
}

static double seconds_since(const struct timespec *then) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) * 1e-9;
}

static void show_bar(uint64_t done, uint64_t total) {
  enum { WIDTH = 40 };
  char bar[WIDTH + 1];
  if (done < total && watch.bar_shown && seconds_since(&watch.last) < 0.1) return;
  clock_gettime(CLOCK_MONOTONIC, &watch.last);
  double share = (double)done / (double)total, seconds = seconds_since(&watch.start);
  size_t filled = (size_t)(share * WIDTH);
  memset(bar, '-', WIDTH);
  memset(bar, '#', filled);
  bar[WIDTH] = '\0';
  fprintf(stderr, "\r[%s] %3.0f%%  %.0f MB/s  %.0f s left ", bar, 100 * share,
          seconds > 0 ? (double)done / seconds / 1e6 : 0.0, share > 0 ? seconds / share - seconds : 0.0);
  fflush(stderr);
  watch.bar_shown = true;
}

static void on_progress(void *user, uint64_t done, uint64_t total) {
  (void)user;
  if (total == 0) return;
  if (watch.terminal) {
    show_bar(done, total);
    return;
  }
  int tenths = (int)((double)done / (double)total * 10);
  if (tenths <= watch.tenths) return;
  watch.tenths = tenths;
  fprintf(stderr, "mlxq: %d%% of %.1f MB written\n", 10 * tenths, (double)total / 1e6);
}

static void clear_bar(void) {
  if (watch.bar_shown) fputs("\r\033[K", stderr);
  watch.bar_shown = false;
}

static void on_warning(void *user, const char *message) {
  (void)user;
  char *escaped = escape(message);
  clear_bar();
  fprintf(stderr, "mlxq: warning: %s\n", escaped ? escaped : "out of memory");
  free(escaped);
}

void watch_start(mlxq_convert_options *options, bool quiet) {
  struct sigaction action = {.sa_handler = on_signal};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  /* Beyond a file size limit, writing is to fail, not to kill. Nobody reading progress is no reason to stop. */
  signal(SIGXFSZ, SIG_IGN);
  watch.old_pipe_handler = signal(SIGPIPE, SIG_IGN);
  watch.terminal = isatty(STDERR_FILENO) != 0;
  clock_gettime(CLOCK_MONOTONIC, &watch.start);
  options->cancelled = is_cancelled;
  options->warn = on_warning;
  if (!quiet) options->progress = on_progress;
}

void watch_stop(void) {
  clear_bar();
  signal(SIGPIPE, watch.old_pipe_handler);
}
