#include "input.h"

#include "base/json.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void broken_promise(const char *promise, const char *file, int line) {
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, promise);
  abort();
}

static void require_text(const char *text, size_t capacity) {
  size_t length = strnlen(text, capacity);
  require(length < capacity);
  for (size_t i = 0; i < length;) {
    uint32_t character = 0;
    size_t bytes = mlxq_utf8_decode(&character, text + i, length - i);
    require(bytes > 0 && character >= 0x20 && character != 0x7F);
    i += bytes;
  }
}

void require_error(const mlxq_error *error, mlxq_status status) {
  require(status != MLXQ_OK && error->status == status && error->message[0] != '\0');
  require(strcmp(mlxq_status_name(status), "unknown") != 0);
  require_text(error->file, sizeof error->file);
  require_text(error->layer, sizeof error->layer);
  require_text(error->key, sizeof error->key);
  require_text(error->message, sizeof error->message);
}

uint8_t take_byte(input *in) {
  if (in->left == 0) return 0;
  in->left--;
  return *in->next++;
}

bool take_bool(input *in) {
  return take_byte(in) & 1;
}

unsigned take_below(input *in, unsigned limit) {
  return take_byte(in) % limit;
}

bool take_rarely(input *in, unsigned odds) {
  return take_below(in, odds) == odds - 1;
}

uint64_t take_number(input *in) {
  unsigned first = take_byte(in);
  uint64_t number = 0;
  if (first < 0xF8) return first;
  for (unsigned i = 0; i <= (first & 7); i++) number = number << 8 | take_byte(in);
  return number;
}

mlxq_weights *new_weights(void) {
  mlxq_weights *weights = NULL;
  require(mlxq_weights_new(&weights, NULL) == MLXQ_OK);
  return weights;
}

const char *format_of(const mlxq_checkpoint *checkpoint) {
  const char *method = NULL;
  bool guessed = false, is_lone = mlxq_checkpoint_lone_copy(checkpoint) != NULL;
  mlxq_error error = {0};
  mlxq_status status = mlxq_checkpoint_foreign(&method, &guessed, checkpoint, &error);
  require(status == (is_lone ? MLXQ_MISSING_KEY : MLXQ_OK) && !guessed);
  if (is_lone) require_error(&error, status);
  return method;
}

mlxq_text json_text(struct json_object *document, int indent) {
  mlxq_text text = {0};
  mlxq_json_write(&text, document, indent);
  require(!text.failed && text.length > 0 && strlen(text.data) == text.length);
  return text;
}

bool same_text(const mlxq_text *a, const mlxq_text *b) {
  return a->length == b->length && memcmp(a->data, b->data, a->length) == 0;
}

static char scratch[64];

static void remove_scratch(void) {
  mlxq_file_remove_tree(scratch, NULL);
}

const char *scratch_folder(void) {
  const char *parent = getenv("TMPDIR");
  if (scratch[0]) return scratch;
  if (!parent) parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  require((size_t)snprintf(scratch, sizeof scratch, "%s/mlxq-fuzz-XXXXXX", parent) < sizeof scratch);
  require(mkdtemp(scratch) != NULL && atexit(remove_scratch) == 0);
  return scratch;
}

void write_bytes(const char *path, const void *bytes, size_t count) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(fd >= 0 && mlxq_file_write_at(fd, bytes, count, 0, path, NULL) == MLXQ_OK);
  require(close(fd) == 0);
}
