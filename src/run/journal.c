#include "run/journal.h"

#include "base/error.h"
#include "checkpoint/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Lines have a fixed length, so that the journal's size is known beforehand. */
#define HEADER_FORMAT "mlxq-journal 1 %016" PRIx64 "\n"
#define LINE_FORMAT   "%08" PRIx32 " %016" PRIx64 "\n"
enum {
  INDEX_DIGITS = 8,
  SUM_DIGITS = 16,
  HEADER_BYTES = 15 + SUM_DIGITS + 1,
  LINE_BYTES = INDEX_DIGITS + SUM_DIGITS + 2
};

/* ---- Checksum -------------------------------------------------------------------------------------------------- */

/* Words that share one pseudo-random number, turned by two bits more for each half of a word. */
enum { BLOCK_WORDS = 16 };

/* The number of a block. */
static uint64_t block_number(uint64_t block) {
  uint64_t x = (block + 1) * UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
  return x ^ x >> 32;
}

static uint64_t turned(uint64_t number, unsigned bits) {
  return number << bits | number >> (64 - bits) % 64;
}

/* Linear in the bytes of a word, so that a word may come in parts. The factors are odd: no change of half a word is
 * lost. */
static uint64_t sum_word(uint64_t number, unsigned place, uint64_t word) {
  uint64_t low = turned(number, 4 * place) | 1, high = turned(number, 4 * place + 2) | 1;
  return (word & UINT32_MAX) * low + (word >> 32) * high;
}

static uint64_t sum_block(uint64_t block, const unsigned char *data) {
  uint64_t sum = 0, number = block_number(block), words[BLOCK_WORDS];
  memcpy(words, data, sizeof words);
  for (unsigned i = 0; i < BLOCK_WORDS; i++) sum += sum_word(number, i, words[i]);
  return sum;
}

uint64_t mlxq_journal_sum(uint64_t offset, const void *data, size_t bytes) {
  enum { WORD = sizeof(uint64_t), BLOCK = BLOCK_WORDS * WORD };
  const unsigned char *from = data;
  uint64_t sum = 0;
  while (bytes > 0) {
    uint64_t word = 0;
    size_t skip = (size_t)(offset % WORD), part = WORD - skip < bytes ? WORD - skip : bytes;
    if (offset % BLOCK == 0 && bytes >= BLOCK) {
      part = BLOCK;
      sum += sum_block(offset / BLOCK, from);
    } else {
      memcpy((unsigned char *)&word + skip, from, part);
      sum += sum_word(block_number(offset / BLOCK), (unsigned)(offset % BLOCK / WORD), word);
    }
    from += part;
    offset += part;
    bytes -= part;
  }
  return sum;
}

/* ---- Reading an old journal ------------------------------------------------------------------------------------ */

/* What a line says of a file. */
typedef struct old_line {
  bool listed;
  uint64_t sum;
} old_line;

static bool parse_hex(uint64_t *value, const char *text, size_t digits) {
  *value = 0;
  for (size_t i = 0; i < digits; i++) {
    static const char DIGITS[] = "0123456789abcdef";
    const char *digit = text[i] ? strchr(DIGITS, text[i]) : NULL;
    if (!digit) return false;
    *value = *value << 4 | (uint64_t)(digit - DIGITS);
  }
  return true;
}

/* Reads lines up to the first that is not as it should be: a torn one, or space that was never written. False for
 * another key. */
static bool parse(old_line *lines, size_t count, uint64_t key, const char *text, size_t length) {
  char header[HEADER_BYTES + 1];
  snprintf(header, sizeof header, HEADER_FORMAT, key);
  if (length < HEADER_BYTES || memcmp(text, header, HEADER_BYTES) != 0) return false;
  for (size_t at = HEADER_BYTES; length - at >= LINE_BYTES; at += LINE_BYTES) {
    uint64_t index, sum;
    const char *line = text + at;
    if (!parse_hex(&index, line, INDEX_DIGITS) || line[INDEX_DIGITS] != ' ' ||
        !parse_hex(&sum, line + INDEX_DIGITS + 1, SUM_DIGITS) || line[LINE_BYTES - 1] != '\n' || index >= count) {
      return true;
    }
    lines[index] = (old_line){true, sum};
  }
  return true;
}

static uint64_t full_length(const mlxq_journal *journal) {
  return HEADER_BYTES + (uint64_t)journal->plan->file_count * LINE_BYTES;
}

/* A file of the folder's own: no link of either sort to another. */
static bool is_regular(const char *path) {
  struct stat kind;
  return lstat(path, &kind) == 0 && S_ISREG(kind.st_mode) && kind.st_nlink == 1;
}

/* What cannot be read says nothing. */
static void read_old(mlxq_journal *journal, const mlxq_journal_request *request, old_line *lines) {
  const size_t most_bytes = HEADER_BYTES + (size_t)MLXQ_MAX_FILES * LINE_BYTES;
  char *text = NULL;
  size_t length = 0;
  if (!is_regular(journal->path)) return;
  journal->stale = !request->reuse;
  if (journal->stale) return;
  if (mlxq_file_read_text(&text, &length, journal->path, most_bytes, NULL) != MLXQ_OK) return;
  journal->stale =
      length > full_length(journal) || !parse(lines, journal->plan->file_count, request->key, text, length);
  free(text);
}

/* ---- Checking old files ---------------------------------------------------------------------------------------- */

/* Sums up a file in pieces. False where it cannot be read, or where the caller does not want to wait. */
static bool sum_file(uint64_t *sum, const mlxq_journal_request *request, int fd, uint64_t bytes, uint64_t before) {
  enum { PIECE_BYTES = 1 << 20 };
  const mlxq_cancel cancel = {request->cancelled, request->user};
  uint64_t total = mlxq_total_bytes(request->plan->outputs);
  unsigned char *piece = mlxq_alloc(PIECE_BYTES, 1);
  bool readable = piece != NULL;
  *sum = 0;
  for (uint64_t at = 0; readable && at < bytes;) {
    size_t part = bytes - at < PIECE_BYTES ? (size_t)(bytes - at) : PIECE_BYTES;
    readable =
        mlxq_cancel_check(&cancel, NULL) == MLXQ_OK && mlxq_file_read_at(fd, piece, part, at, NULL, NULL) == MLXQ_OK;
    if (!readable) break;
    *sum += mlxq_journal_sum(at, piece, part);
    at += part;
    if (request->progress) request->progress(request->user, before + at < total ? before + at : total, total);
  }
  free(piece);
  return readable;
}

static bool is_whole(const mlxq_journal *journal, const mlxq_journal_request *request, size_t index, uint64_t sum) {
  const mlxq_plan_file *file = &journal->plan->files[index];
  mlxq_file_identity identity;
  uint64_t found = 0;
  int fd = -1;
  char *path = mlxq_path_join(journal->folder, file->name);
  bool whole = path && is_regular(path) && mlxq_file_open(&fd, &identity, path, NULL) == MLXQ_OK &&
               identity.bytes == file->bytes && sum_file(&found, request, fd, file->bytes, journal->reused_bytes) &&
               found == sum;
  mlxq_file_close(fd);
  free(path);
  return whole;
}

static uint64_t tensor_bytes(const mlxq_plan *plan, const mlxq_plan_file *file) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < file->count; i++) {
    bytes += plan->outputs->entries[plan->file_order[file->first + i]].tensor.bytes;
  }
  return bytes;
}

static mlxq_status check_old(mlxq_journal *journal, const mlxq_journal_request *request, mlxq_error *error) {
  const mlxq_plan *plan = journal->plan;
  bool any = false;
  old_line *lines = mlxq_calloc(plan->file_count, sizeof *lines);
  if (!lines) return mlxq_fail_memory(error);
  read_old(journal, request, lines);
  for (size_t i = 0; i < plan->file_count; i++) {
    mlxq_shard *shard = &journal->shards[i];
    if (!lines[i].listed) continue;
    any = true;
    shard->whole = is_whole(journal, request, i, lines[i].sum);
    if (!shard->whole) continue;
    atomic_store(&shard->sum, lines[i].sum);
    journal->reused_bytes += tensor_bytes(plan, &plan->files[i]);
  }
  free(lines);
  const mlxq_cancel cancel = {request->cancelled, request->user};
  return any ? mlxq_cancel_check(&cancel, error) : MLXQ_OK;
}

/* ---- Writing --------------------------------------------------------------------------------------------------- */

static mlxq_status put_line(mlxq_journal *journal, const char *path, uint32_t file, uint64_t sum, mlxq_error *error) {
  char line[LINE_BYTES + 1];
  snprintf(line, sizeof line, LINE_FORMAT, file, sum);
  mlxq_status status = mlxq_file_write_at(journal->fd, line, LINE_BYTES, journal->length, path, error);
  if (status == MLXQ_OK) journal->length += LINE_BYTES;
  return status;
}

static mlxq_status add_line(mlxq_journal *journal, uint32_t file, uint64_t sum, mlxq_error *error) {
  pthread_mutex_lock(&journal->lock);
  mlxq_status status = put_line(journal, journal->path, file, sum, error);
  if (status == MLXQ_OK) status = mlxq_file_sync(journal->fd, journal->path, error);
  pthread_mutex_unlock(&journal->lock);
  return status;
}

/* Gives a path these permissions, and leaves the other bits (a folder's group may be its files'). */
static bool set_permissions(const char *path, mode_t permissions) {
  struct stat status;
  if (stat(path, &status) != 0) return false;
  return (status.st_mode & 0777) == permissions || chmod(path, (status.st_mode & 07000) | permissions) == 0;
}

/* Gives what an earlier run made the permissions that this one gives, which the new journal's tell. A file that will
 * not take them, since it is another user's, is made anew; a folder stays as it is. */
static mlxq_status adopt(mlxq_journal *journal, const char *fresh, mlxq_error *error) {
  struct stat made;
  if (fstat(journal->fd, &made) != 0) return mlxq_fail_errno(error, errno, fresh, "cannot stat");
  mode_t of_files = made.st_mode & 0777, of_folder = of_files | (of_files & 0444) >> 2;
  (void)set_permissions(journal->folder, of_folder);
  for (size_t i = 0; i < journal->plan->file_count; i++) {
    const mlxq_plan_file *file = &journal->plan->files[i];
    mlxq_shard *shard = &journal->shards[i];
    if (!shard->whole) continue;
    char *path = mlxq_path_join(journal->folder, file->name);
    if (!path) return mlxq_fail_memory(error);
    shard->whole = set_permissions(path, of_files);
    free(path);
    if (shard->whole) continue;
    atomic_store(&shard->sum, 0);
    journal->reused_bytes -= tensor_bytes(journal->plan, file);
  }
  return MLXQ_OK;
}

/* Replaces the old journal by one that lists what was found whole. Its space is reserved, so that a disk that fills up
 * is no matter later. */
static mlxq_status start(mlxq_journal *journal, uint64_t key, mlxq_error *error) {
  char header[HEADER_BYTES + 1];
  char *fresh = mlxq_asprintf("%s.new", journal->path);
  mlxq_status status = fresh ? mlxq_file_remove_tree(fresh, error) : mlxq_fail_memory(error);
  if (status == MLXQ_OK) status = mlxq_file_create(&journal->fd, fresh, error);
  if (status == MLXQ_OK && is_regular(journal->path)) status = adopt(journal, fresh, error);
  if (status == MLXQ_OK) status = mlxq_file_reserve(journal->fd, full_length(journal), fresh, error);
  snprintf(header, sizeof header, HEADER_FORMAT, key);
  if (status == MLXQ_OK) status = mlxq_file_write_at(journal->fd, header, HEADER_BYTES, 0, fresh, error);
  journal->length = HEADER_BYTES;
  for (size_t i = 0; status == MLXQ_OK && i < journal->plan->file_count; i++) {
    if (!journal->shards[i].whole) continue;
    status = put_line(journal, fresh, (uint32_t)i, atomic_load(&journal->shards[i].sum), error);
  }
  if (status == MLXQ_OK) status = mlxq_file_sync(journal->fd, fresh, error);
  if (status == MLXQ_OK && !is_regular(journal->path)) status = mlxq_file_remove_tree(journal->path, error);
  if (status == MLXQ_OK && rename(fresh, journal->path) != 0) {
    status = mlxq_fail_errno(error, errno, journal->path, "cannot create");
  }
  free(fresh);
  return status;
}

mlxq_status mlxq_journal_open(mlxq_journal *journal, const mlxq_journal_request *request, mlxq_error *error) {
  *journal = (mlxq_journal){.plan = request->plan, .folder = request->folder, .fd = -1};
  journal->shards = mlxq_calloc(request->plan->file_count, sizeof *journal->shards);
  if (!journal->shards) return mlxq_fail_memory(error);
  pthread_mutex_init(&journal->lock, NULL);
  journal->path = mlxq_path_join(request->folder, MLXQ_JOURNAL_NAME);
  if (!journal->path) return mlxq_fail_memory(error);
  for (size_t i = 0; i < request->plan->file_count; i++) {
    atomic_init(&journal->shards[i].left, request->plan->files[i].bytes);
    atomic_init(&journal->shards[i].sum, 0);
  }
  mlxq_status status = check_old(journal, request, error);
  return status == MLXQ_OK ? start(journal, request->key, error) : status;
}

bool mlxq_journal_has(const mlxq_journal *journal, uint32_t file) {
  return journal && journal->shards[file].whole;
}

mlxq_status mlxq_journal_wrote(mlxq_journal *journal, uint32_t file, int fd, uint64_t offset, const void *data,
                               size_t bytes, mlxq_error *error) {
  if (!journal || bytes == 0) return MLXQ_OK;
  mlxq_shard *shard = &journal->shards[file];
  atomic_fetch_add(&shard->sum, mlxq_journal_sum(offset, data, bytes));
  if (atomic_fetch_sub(&shard->left, bytes) > bytes) return MLXQ_OK;
  mlxq_status status = mlxq_file_sync(fd, NULL, error);
  return status == MLXQ_OK ? add_line(journal, file, atomic_load(&shard->sum), error) : status;
}

void mlxq_journal_close(mlxq_journal *journal) {
  if (!journal->shards) return;
  mlxq_file_close(journal->fd);
  pthread_mutex_destroy(&journal->lock);
  free(journal->shards);
  free(journal->path);
  *journal = (mlxq_journal){.fd = -1};
}
