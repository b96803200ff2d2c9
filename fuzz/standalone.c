/* Replays inputs through a fuzzer's entry without libFuzzer: each argument is a file, or a folder of files. Fails when
 * there was nothing to replay, so that a lost corpus is noticed. */
#include "base/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUT_BYTES = 1 << 24 };

static size_t replay_file(const char *path) {
  char *data;
  size_t size;
  mlxq_error error;
  if (mlxq_file_read_text(&data, &size, path, MAX_INPUT_BYTES, &error) != MLXQ_OK) {
    fprintf(stderr, "%s: %s\n", path, error.message);
    exit(1);
  }
  printf("%s\n", path);
  fflush(stdout); /* the name of an input that crashes is the last line */
  LLVMFuzzerTestOneInput((const uint8_t *)data, size);
  free(data);
  return 1;
}

static size_t replay_folder(DIR *folder, const char *path) {
  size_t count = 0;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    char *name = mlxq_path_join(path, entry->d_name);
    if (!name) exit(1);
    count += replay_file(name);
    free(name);
  }
  return count;
}

int main(int argc, char **argv) {
  size_t count = 0;
  for (int i = 1; i < argc; i++) {
    DIR *folder = opendir(argv[i]);
    count += folder ? replay_folder(folder, argv[i]) : replay_file(argv[i]);
    if (folder) closedir(folder);
  }
  printf("%zu inputs\n", count);
  return count > 0 ? 0 : 1;
}
