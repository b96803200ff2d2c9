#include "run/publish.h"

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/index.h"
#include "safetensors/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Checks ---------------------------------------------------------------------------------------------------- */

static mlxq_status fail_at(mlxq_error *error, mlxq_status status, const char *file, const char *message) {
  mlxq_fail(error, status, NULL, NULL, "%s", message);
  return mlxq_error_at_file(error, status, file);
}

/* What a path leads to. One folder may be mounted in two places, and names that differ may be one: paths do not tell.
 */
typedef struct place {
  bool there;
  struct stat status;
} place;

static mlxq_status find_place(place *found, const char *path, mlxq_error *error) {
  found->there = lstat(path, &found->status) == 0;
  /* A name that is too long is told of where something is to be made by it. */
  if (found->there || errno == ENOENT || errno == ENAMETOOLONG) return MLXQ_OK;
  return mlxq_fail_errno(error, errno, path, "cannot stat");
}

static bool is_same_file(const struct stat *one, const struct stat *other) {
  return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

static bool is_same(const place *one, const place *other) {
  return one->there && other->there && is_same_file(&one->status, &other->status);
}

/* Whether `path`, which is canonical, is `folder` or lies inside it. */
static mlxq_status look_inside(bool *inside, const char *path, const place *folder, mlxq_error *error) {
  char *ancestor = mlxq_asprintf("%s", path);
  mlxq_status status = ancestor ? MLXQ_OK : mlxq_fail_memory(error);
  *inside = false;
  while (status == MLXQ_OK && *ancestor && !*inside) {
    place here;
    status = find_place(&here, ancestor, error);
    *inside = status == MLXQ_OK && is_same(&here, folder);
    char *slash = strrchr(ancestor, '/');
    if (slash == ancestor && slash[1]) slash++; /* "/" comes last */
    *slash = '\0';
  }
  free(ancestor);
  return status;
}

/* True for a file that begins as a .safetensors file does, or is empty. */
static bool is_safetensors(const char *path) {
  enum { LENGTH_WORD_BYTES = 8 };
  unsigned char start[LENGTH_WORD_BYTES + 1];
  mlxq_file_identity identity;
  int fd = -1;
  if (mlxq_file_open(&fd, &identity, path, NULL) != MLXQ_OK) return false;
  bool begins = identity.bytes == 0 || (identity.bytes > sizeof start &&
                                        mlxq_file_read_at(fd, start, sizeof start, 0, path, NULL) == MLXQ_OK &&
                                        start[4] == 0 && start[LENGTH_WORD_BYTES] == '{');
  mlxq_file_close(fd);
  return begins;
}

/* What a folder holds, as far as it decides whether it may be replaced. */
typedef struct folder_content {
  bool anything, config, safetensors, folders;
  char *other; /* of the files that no conversion makes the first by name, or NULL; the caller frees it */
} folder_content;

/* What a conversion makes, or leaves unfinished; and what a Mac puts everywhere. */
static bool is_made(const char *name) {
  static const char *const NAMES[] = {"config.json", MLXQ_INDEX_NAME, "README.md", MLXQ_JOURNAL_NAME, ".DS_Store"};
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    if (strcmp(name, NAMES[i]) == 0) return true;
  }
  return fnmatch("model*.safetensors", name, 0) == 0 || mlxq_is_side_file(name);
}

/* The next entry but "." and "..". NULL at the end; `*failed` is then 0, or the errno of a listing that broke off. */
static const struct dirent *next_entry(DIR *folder, int *failed) {
  const struct dirent *entry;
  do {
    errno = 0;
    entry = readdir(folder);
    *failed = entry ? 0 : errno;
  } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
  return entry;
}

static mlxq_status fail_inside(const char *folder, const char *name, int os_errno, mlxq_error *error) {
  char *path = mlxq_path_join(folder, name);
  mlxq_status status = path ? mlxq_fail_errno(error, os_errno, path, "cannot stat") : mlxq_fail_memory(error);
  free(path);
  return status;
}

static mlxq_status note_other(folder_content *content, const char *name, mlxq_error *error) {
  if (is_made(name) || (content->other && strcmp(content->other, name) < 0)) return MLXQ_OK;
  free(content->other);
  content->other = mlxq_asprintf("%s", name);
  return content->other ? MLXQ_OK : mlxq_fail_memory(error);
}

static mlxq_status look_into(folder_content *content, const char *path, mlxq_error *error) {
  *content = (folder_content){0};
  DIR *folder = opendir(path);
  if (!folder) return mlxq_fail_errno(error, errno, path, "cannot open");
  mlxq_status status = MLXQ_OK;
  int failed;
  const struct dirent *entry;
  while ((entry = next_entry(folder, &failed))) {
    struct stat kind;
    if (fstatat(dirfd(folder), entry->d_name, &kind, AT_SYMLINK_NOFOLLOW) != 0) {
      status = fail_inside(path, entry->d_name, errno, error);
      break;
    }
    content->anything = true;
    content->config = content->config || strcmp(entry->d_name, "config.json") == 0;
    content->safetensors = content->safetensors || fnmatch("*.safetensors", entry->d_name, 0) == 0;
    content->folders = content->folders || S_ISDIR(kind.st_mode);
    status = note_other(content, entry->d_name, error);
    if (status != MLXQ_OK) break;
  }
  closedir(folder);
  return failed ? mlxq_fail_errno(error, failed, path, "cannot list") : status;
}

/* With `whole` it must be a checkpoint; else what is left of one will do, which is being removed. */
static mlxq_status judge_content(const folder_content *content, bool whole, const char *destination,
                                 mlxq_error *error) {
  if (!content->anything) return MLXQ_OK;
  if (content->folders) {
    return fail_at(error, MLXQ_EXISTS, destination, "exists and holds other folders, so --force does not replace it");
  }
  if (whole && (!content->config || !content->safetensors)) {
    return fail_at(error, MLXQ_EXISTS, destination,
                   "exists and is no checkpoint (config.json and .safetensors files), so --force does not replace it");
  }
  if (!content->other) return MLXQ_OK;
  mlxq_fail(error, MLXQ_EXISTS, NULL, NULL,
            "exists and holds %s, which no conversion makes, so --force does not replace it", content->other);
  return mlxq_error_at_file(error, MLXQ_EXISTS, destination);
}

static mlxq_status check_folder(const char *path, bool whole, const char *destination, mlxq_error *error) {
  folder_content content;
  mlxq_status status = look_into(&content, path, error);
  if (status == MLXQ_OK) status = judge_content(&content, whole, destination, error);
  free(content.other);
  return status;
}

/* --force replaces what a conversion makes, and empty folders; not somebody's notes or home. `path` is where that is:
 * the destination, or what an interrupted replacement set aside of it. */
static mlxq_status check_replaceable(const mlxq_staging *staging, const char *path, const struct stat *existing,
                                     mlxq_error *error) {
  const char *destination = staging->destination;
  if (!staging->force)
    return fail_at(error, MLXQ_EXISTS, destination, "exists already (--force replaces a checkpoint)");
  if (staging->is_folder && !S_ISDIR(existing->st_mode)) {
    return fail_at(error, MLXQ_EXISTS, destination, "exists and is not a folder");
  }
  if (!staging->is_folder && (!S_ISREG(existing->st_mode) || !is_safetensors(path))) {
    return fail_at(error, MLXQ_EXISTS, destination,
                   "exists and is not a .safetensors file, so --force does not replace it");
  }
  return staging->is_folder ? check_folder(path, true, destination, error) : MLXQ_OK;
}

/* Fails with the reason if `path` is or lies inside `folder`. */
static mlxq_status check_outside(const char *path, const place *folder, const char *file, const char *reason,
                                 mlxq_error *error) {
  bool inside = false;
  mlxq_status status = folder->there ? look_inside(&inside, path, folder, error) : MLXQ_OK;
  return status == MLXQ_OK && inside ? fail_at(error, MLXQ_USAGE, file, reason) : status;
}

static mlxq_status check_source(const mlxq_staging *staging, const char *real_source, const char *real_parent,
                                mlxq_error *error) {
  static const char WITHIN[] = "is, or lies inside, the source";
  static const char WORKING[] = "is a working folder for this destination, and the source";
  const char *destination = staging->destination;
  place source, target, working, aside;
  mlxq_status status = find_place(&source, real_source, error);
  if (status == MLXQ_OK) status = find_place(&target, destination, error);
  if (status == MLXQ_OK) status = find_place(&working, staging->folder, error);
  if (status == MLXQ_OK) status = find_place(&aside, staging->aside, error);
  if (status == MLXQ_OK) status = check_outside(real_parent, &source, destination, WITHIN, error);
  if (status == MLXQ_OK && is_same(&source, &target)) return fail_at(error, MLXQ_USAGE, destination, WITHIN);
  if (status == MLXQ_OK) status = check_outside(real_source, &target, destination, "contains the source", error);
  if (status == MLXQ_OK) status = check_outside(real_source, &working, real_source, WORKING, error);
  if (status == MLXQ_OK) status = check_outside(real_source, &aside, real_source, WORKING, error);
  return status;
}

static mlxq_status check_places(const mlxq_staging *staging, const char *source, mlxq_error *error) {
  mlxq_status status;
  char *real_parent = NULL, *real_source = realpath(source, NULL);
  if (!real_source) {
    status = mlxq_fail_errno(error, errno, source, "cannot resolve");
  } else if (!(real_parent = realpath(staging->parent, NULL))) {
    status = mlxq_fail_errno(error, errno, staging->parent, "the folder of the destination cannot be resolved");
  } else {
    status = check_source(staging, real_source, real_parent, error);
  }
  free(real_parent);
  free(real_source);
  return status;
}

/* ---- Locks ------------------------------------------------------------------------------------------------------ */

/* 0 where the locked descriptor is still what the path names. Another process may have renamed it in between: then
 * EWOULDBLOCK, as where it is locked. */
static int check_still_there(int lock, const char *path) {
  struct stat of_lock, of_path;
  if (fstat(lock, &of_lock) != 0) return errno;
  if (lstat(path, &of_path) != 0) return errno == ENOENT ? EWOULDBLOCK : errno;
  return is_same_file(&of_lock, &of_path) ? 0 : EWOULDBLOCK;
}

/* Locks a folder against other processes that work on the same destination: what lies under the working name is locked
 * as long as it is there, the replaced folder that an exchange put there included. */
static mlxq_status lock_folder(int *lock, const mlxq_staging *staging, const char *path, mlxq_error *error) {
  int fd = mlxq_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), failed = 0;
  if (fd < 0) return mlxq_fail_errno(error, errno, path, "cannot open");
  do {
    failed = flock(fd, LOCK_EX | LOCK_NB) != 0 ? errno : 0;
  } while (failed == EINTR);
  /* Some file systems have no locks; there two processes are told apart by their renames only. */
  if (failed == ENOSYS || failed == ENOLCK || failed == EOPNOTSUPP) failed = 0;
  if (failed == 0) failed = check_still_there(fd, path);
  if (failed == EWOULDBLOCK) {
    close(fd);
    return fail_at(error, MLXQ_BUSY, staging->destination, "another process is writing it");
  }
  if (failed != 0) {
    close(fd);
    return mlxq_fail_errno(error, failed, path, "cannot lock");
  }
  *lock = fd;
  return MLXQ_OK;
}

/* ---- Checking the destination ----------------------------------------------------------------------------------- */

/* PARENT/.NAME.mlxq-ENDING, or where that would be longer than names may be, a digest of the name in its place. */
static char *working_name(const char *destination, size_t parent_length, const char *ending) {
  const char *base = destination + parent_length;
  size_t length = strlen(base);
  if (1 + length + strlen(ending) <= NAME_MAX) {
    return mlxq_asprintf("%.*s.%s%s", (int)parent_length, destination, base, ending);
  }
  return mlxq_asprintf("%.*s.%016" PRIx64 "%s", (int)parent_length, destination, mlxq_digest(base, length), ending);
}

/* A replacement without RENAME_EXCHANGE that was killed half-way: the old checkpoint goes back to its place, unless the
 * process that does it is still there. */
static mlxq_status put_back(const mlxq_staging *staging, mlxq_error *error) {
  struct stat existing;
  if (lstat(staging->destination, &existing) == 0 || errno != ENOENT || lstat(staging->aside, &existing) != 0) {
    return MLXQ_OK;
  }
  int lock = -1;
  mlxq_status status = lock_folder(&lock, staging, staging->folder, error);
  if (status == MLXQ_BUSY) return status;
  rename(staging->aside, staging->destination);
  mlxq_file_close(lock);
  return MLXQ_OK;
}

mlxq_status mlxq_staging_check(mlxq_staging *staging, const char *source, const char *destination, bool is_folder,
                               bool force, bool keep_partial, bool look_only, mlxq_error *error) {
  *staging =
      (mlxq_staging){.lock = -1, .old_lock = -1, .is_folder = is_folder, .force = force, .keep_partial = keep_partial};
  size_t length = strlen(destination);
  while (length > 1 && destination[length - 1] == '/') length--;
  staging->destination = mlxq_asprintf("%.*s", (int)length, destination);
  if (!staging->destination) return mlxq_fail_memory(error);
  const char *base = mlxq_path_base(staging->destination);
  if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0) {
    return fail_at(error, MLXQ_USAGE, destination, "the destination needs a name of its own");
  }
  size_t parent_length = (size_t)(base - staging->destination);
  staging->parent =
      parent_length ? mlxq_asprintf("%.*s", (int)parent_length, staging->destination) : mlxq_asprintf(".");
  if (!staging->parent) return mlxq_fail_memory(error);
  staging->folder = working_name(staging->destination, parent_length, ".mlxq-partial");
  staging->aside = working_name(staging->destination, parent_length, ".mlxq-old");
  if (!staging->folder || !staging->aside) return mlxq_fail_memory(error);
  mlxq_status status = check_places(staging, source, error);
  if (status != MLXQ_OK) return status;
  status = look_only ? MLXQ_OK : put_back(staging, error);
  if (status != MLXQ_OK) return status;
  const char *path = staging->destination;
  struct stat existing;
  bool there = lstat(path, &existing) == 0;
  if (!there && errno != ENOENT) return mlxq_fail_errno(error, errno, path, "cannot stat");
  staging->occupied = there;
  if (there) status = check_replaceable(staging, path, &existing, error);
  /* What is aside is removed in the end, or stands for a destination that was not put back. */
  if (status == MLXQ_OK && lstat(path = staging->aside, &existing) == 0) {
    status = there ? check_folder(path, false, path, error) : check_replaceable(staging, path, &existing, error);
  }
  return status;
}

mlxq_status mlxq_staging_check_file(const mlxq_staging *staging, const char *path, mlxq_error *error) {
  if (!staging->occupied) return MLXQ_OK;
  place target;
  char *file = realpath(path, NULL);
  if (!file) return mlxq_fail_errno(error, errno, path, "cannot resolve");
  mlxq_status status = find_place(&target, staging->destination, error);
  if (status == MLXQ_OK) {
    status = check_outside(file, &target, path, "lies in the destination, which --force would replace", error);
  }
  free(file);
  return status;
}

/* ---- The working folder ---------------------------------------------------------------------------------------- */

static int compare_name(const void *name, const void *file) {
  return strcmp(name, ((const mlxq_plan_file *)file)->name);
}

static bool is_kept(const mlxq_plan *plan, const mlxq_journal *journal, const char *name) {
  if (!journal) return false;
  if (strcmp(name, MLXQ_JOURNAL_NAME) == 0) return true;
  /* Their names are in order. */
  const mlxq_plan_file *file = bsearch(name, plan->files, plan->file_count, sizeof *plan->files, compare_name);
  return file && mlxq_journal_has(journal, (uint32_t)(file - plan->files));
}

/* Removes what is in the folder and is not kept; the folder itself stays. */
static mlxq_status empty_folder(const char *path, const mlxq_plan *plan, const mlxq_journal *journal,
                                mlxq_error *error) {
  DIR *folder = opendir(path);
  if (!folder) return mlxq_fail_errno(error, errno, path, "cannot open");
  mlxq_status status = MLXQ_OK;
  int failed = 0;
  const struct dirent *entry;
  while (status == MLXQ_OK && (entry = next_entry(folder, &failed))) {
    if (is_kept(plan, journal, entry->d_name)) continue;
    char *inside = mlxq_path_join(path, entry->d_name);
    status = inside ? mlxq_file_remove_tree(inside, error) : mlxq_fail_memory(error);
    free(inside);
  }
  closedir(folder);
  if (status == MLXQ_OK && failed) return mlxq_fail_errno(error, failed, path, "cannot list");
  return status;
}

mlxq_status mlxq_staging_create(mlxq_staging *staging, mlxq_error *error) {
  const char *path = staging->folder;
  bool made = mkdir(path, 0777) == 0;
  if (!made && errno != EEXIST) return mlxq_fail_errno(error, errno, path, "cannot create");
  mlxq_status status = lock_folder(&staging->lock, staging, path, error);
  if (status != MLXQ_OK && status != MLXQ_BUSY && made) rmdir(path);
  return status;
}

static mlxq_status create_file(const mlxq_staging *staging, mlxq_plan *plan, uint32_t index, mlxq_journal *journal,
                               mlxq_error *error) {
  const mlxq_plan_file *file = &plan->files[index];
  char *header = NULL;
  size_t header_bytes = 0;
  uint64_t file_bytes = 0;
  int fd = -1;
  char *path = mlxq_path_join(staging->folder, file->name);
  mlxq_status status = path ? MLXQ_OK : mlxq_fail_memory(error);
  if (status == MLXQ_OK) {
    status = mlxq_safetensors_layout(plan->outputs, index, plan->file_order + file->first, file->count, &header,
                                     &header_bytes, &file_bytes, error);
  }
  if (status == MLXQ_OK) status = mlxq_file_create(&fd, path, error);
  if (status == MLXQ_OK) status = mlxq_file_reserve(fd, file_bytes, path, error);
  if (status == MLXQ_OK) status = mlxq_file_write_at(fd, header, header_bytes, 0, path, error);
  if (status == MLXQ_OK) status = mlxq_journal_wrote(journal, index, fd, 0, header, header_bytes, error);
  mlxq_error_at_file(error, status, path);
  if (fd >= 0 && close(fd) != 0 && status == MLXQ_OK) status = mlxq_fail_errno(error, errno, path, "cannot close");
  free(header);
  free(path);
  return status;
}

mlxq_status mlxq_staging_create_files(const mlxq_staging *staging, mlxq_plan *plan, mlxq_journal *journal,
                                      mlxq_error *error) {
  mlxq_status status = empty_folder(staging->folder, plan, journal, error);
  for (size_t i = 0; status == MLXQ_OK && i < plan->file_count; i++) {
    if (mlxq_journal_has(journal, (uint32_t)i)) continue;
    status = mlxq_cancel_check(&staging->cancel, error);
    if (status == MLXQ_OK) status = create_file(staging, plan, (uint32_t)i, journal, error);
  }
  /* So that a power cut leaves names for what the journal will vouch for. */
  if (status == MLXQ_OK && journal) status = mlxq_folder_sync(staging->folder, error);
  if (status == MLXQ_OK && journal) status = mlxq_folder_sync(staging->parent, error);
  return status;
}

/* ---- Publishing ------------------------------------------------------------------------------------------------ */

static mlxq_status remove_journal(const mlxq_staging *staging, mlxq_error *error) {
  char *path = mlxq_path_join(staging->folder, MLXQ_JOURNAL_NAME);
  mlxq_status status = path ? mlxq_file_remove_tree(path, error) : mlxq_fail_memory(error);
  free(path);
  return status;
}

static mlxq_status sync_files(const mlxq_staging *staging, const mlxq_plan *plan, mlxq_error *error) {
  for (size_t i = 0; i < plan->file_count; i++) {
    int fd = -1;
    mlxq_status status = mlxq_cancel_check(&staging->cancel, error);
    if (status != MLXQ_OK) return status;
    char *path = mlxq_path_join(staging->folder, plan->files[i].name);
    status = path ? mlxq_file_open_write(&fd, path, error) : mlxq_fail_memory(error);
    if (status == MLXQ_OK) status = mlxq_file_sync(fd, path, error);
    if (fd >= 0) close(fd);
    free(path);
    if (status != MLXQ_OK) return status;
  }
  mlxq_status status = remove_journal(staging, error);
  return status == MLXQ_OK ? mlxq_folder_sync(staging->folder, error) : status;
}

/* Renames with the kernel's guarantee where the file system offers it; otherwise as near to it as POSIX goes. */
static int rename_flagged(const char *from, const char *to, unsigned flags) {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) == 0) return 0;
  return errno;
}

/* Puts `from` where nothing is. */
static int rename_to_new(const char *from, const char *to) {
  struct stat existing;
  int failed = rename_flagged(from, to, RENAME_NOREPLACE);
  if (failed != EINVAL && failed != ENOSYS) return failed;
  if (lstat(to, &existing) == 0) return EEXIST;
  return rename(from, to) == 0 ? 0 : errno;
}

/* Without RENAME_EXCHANGE a folder has to make way first. Until the new one is in place the old one is kept aside. */
static int replace_in_two_steps(const mlxq_staging *staging, const char *from) {
  if (!staging->is_folder) return rename(from, staging->destination) == 0 ? 0 : errno;
  if (mlxq_file_remove_tree(staging->aside, NULL) != MLXQ_OK) return EEXIST;
  if (rename(staging->destination, staging->aside) != 0) return errno;
  if (rename(from, staging->destination) == 0) return 0;
  int failed = errno;
  rename(staging->aside, staging->destination);
  return failed;
}

/* Puts `from` in the place of the destination, which is there; what was there is then under the name `from` or aside.
 */
static mlxq_status replace(mlxq_staging *staging, const char *from, mlxq_error *error) {
  const char *destination = staging->destination;
  struct stat existing;
  if (lstat(destination, &existing) != 0) return mlxq_fail_errno(error, errno, destination, "cannot stat");
  /* It may have appeared since the first check. */
  mlxq_status status = check_replaceable(staging, destination, &existing, error);
  if (status == MLXQ_OK && staging->is_folder) status = lock_folder(&staging->old_lock, staging, destination, error);
  if (status != MLXQ_OK) return status;
  int failed = rename_flagged(from, destination, RENAME_EXCHANGE);
  staging->exchanged = failed == 0;
  if (failed == EINVAL || failed == ENOSYS) failed = replace_in_two_steps(staging, from);
  return failed ? mlxq_fail_errno(error, failed, destination, "cannot publish") : MLXQ_OK;
}

static mlxq_status put_in_place(mlxq_staging *staging, const char *from, mlxq_error *error) {
  int failed = rename_to_new(from, staging->destination);
  staging->replaced = failed == EEXIST && staging->force;
  if (staging->replaced) return replace(staging, from, error);
  return failed ? mlxq_fail_errno(error, failed, staging->destination, "cannot publish") : MLXQ_OK;
}

/* Nothing is lost where this fails, and the destination is complete: the error says so. */
static mlxq_status remove_replaced(const mlxq_staging *staging, const char *path, mlxq_error *error) {
  mlxq_error reason;
  mlxq_status status = mlxq_file_remove_tree(path, &reason);
  if (status == MLXQ_OK) return MLXQ_OK;
  mlxq_fail(error, status, NULL, NULL, "%s; %s is complete", reason.message, staging->destination);
  return mlxq_error_at_file(error, status, path);
}

mlxq_status mlxq_staging_publish(mlxq_staging *staging, const mlxq_plan *plan, mlxq_error *error) {
  char *file = NULL;
  const char *from = staging->folder;
  mlxq_status status = sync_files(staging, plan, error);
  if (status == MLXQ_OK && !staging->is_folder) {
    from = file = mlxq_path_join(staging->folder, plan->files[0].name);
    if (!file) status = mlxq_fail_memory(error);
  }
  if (status == MLXQ_OK) status = put_in_place(staging, from, error);
  free(file);
  if (status != MLXQ_OK) return status;
  staging->published = true;
  status = mlxq_folder_sync(staging->parent, error);
  if (status != MLXQ_OK && staging->replaced) return status;
  /* Left under the working name is what was replaced, or the folder that the file was made in. A folder that was
   * renamed is not: the name may be another process's by now. */
  if (!staging->is_folder || staging->exchanged) {
    mlxq_status removed = remove_replaced(staging, staging->folder, status == MLXQ_OK ? error : NULL);
    if (status == MLXQ_OK) status = removed;
  }
  return status == MLXQ_OK ? remove_replaced(staging, staging->aside, error) : status;
}

static bool is_unfinished(const mlxq_staging *staging) {
  return staging->lock >= 0 && !staging->published;
}

bool mlxq_staging_is_kept(const mlxq_staging *staging) {
  return is_unfinished(staging) && staging->keep_partial;
}

void mlxq_staging_close(mlxq_staging *staging) {
  if (is_unfinished(staging) && !staging->keep_partial) mlxq_file_remove_tree(staging->folder, NULL);
  mlxq_file_close(staging->lock);
  mlxq_file_close(staging->old_lock);
  free(staging->aside);
  free(staging->folder);
  free(staging->parent);
  free(staging->destination);
  *staging = (mlxq_staging){.lock = -1, .old_lock = -1};
}
