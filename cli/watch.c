/* Watching a conversion: progress and warnings on stderr, and stopping at SIGINT and SIGTERM. */
#include "cli.h"
#include "print.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Workers read it too, for which sig_atomic_t is not enough. */
static atomic_int interrupted;

_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a signal handler needs a lock-free atomic");

/* The process runs one command; there is one watch. */
static struct {
  const char *done; /* "written" */
  bool started, terminal, bar_shown;
  int tenths; /* the last tenth that got a line */
  void (*old_pipe_handler)(int);
  struct sigaction old_actions[3]; /* of SIGNALS */
  struct timespec start, last;
} watch;

static void on_signal(int number) {
  (void)number;
  atomic_store(&interrupted, 1);
}

static bool is_cancelled(void *user) {
  (void)user;
  return atomic_load(&interrupted) != 0;
}

static double seconds_since(const struct timespec *then) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) * 1e-9;
}

static void show_bar(uint64_t done, uint64_t total) {
  enum { MOST = 40, BESIDE = 40 }; /* columns of the bar, and of what stands beside it */
  char bar[MOST + 1];
  struct winsize window = {0};
  if (done < total && watch.bar_shown && seconds_since(&watch.last) < 0.1) return;
  clock_gettime(CLOCK_MONOTONIC, &watch.last);
  double share = (double)done / (double)total, seconds = seconds_since(&watch.start);
  size_t width = MOST;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 && window.ws_col < MOST + BESIDE) {
    width = window.ws_col > BESIDE ? window.ws_col - BESIDE : 0;
  }
  size_t filled = (size_t)(share * (double)width);
  memset(bar, '-', width);
  memset(bar, '#', filled);
  bar[width] = '\0';
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
  char size[32];
  format_bytes(size, sizeof size, total);
  fprintf(stderr, "mlxq: %d%% of %s %s\n", 10 * tenths, size, watch.done);
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

/* Signals that end a conversion cleanly: a second one kills, and one that came ignored (nohup) stays so. */
static const int SIGNALS[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNAL_COUNT = sizeof SIGNALS / sizeof *SIGNALS };

void watch_start(mlxq_convert_options *options, bool quiet, const char *done) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < SIGNAL_COUNT; i++) {
    sigaction(SIGNALS[i], NULL, &watch.old_actions[i]);
    if (watch.old_actions[i].sa_handler != SIG_IGN) sigaction(SIGNALS[i], &action, NULL);
  }
  /* Beyond a file size limit, writing is to fail, not to kill. Nobody reading progress is no reason to stop. */
  signal(SIGXFSZ, SIG_IGN);
  watch.old_pipe_handler = signal(SIGPIPE, SIG_IGN);
  watch.started = true;
  watch.done = done;
  watch.terminal = isatty(STDERR_FILENO) != 0;
  clock_gettime(CLOCK_MONOTONIC, &watch.start);
  options->cancelled = is_cancelled;
  options->warn = on_warning;
  if (!quiet) options->progress = on_progress;
}

void watch_stop(void) {
  clear_bar();
  if (!watch.started) return;
  for (size_t i = 0; i < SIGNAL_COUNT; i++) sigaction(SIGNALS[i], &watch.old_actions[i], NULL);
  signal(SIGPIPE, watch.old_pipe_handler);
  watch.started = false;
}
