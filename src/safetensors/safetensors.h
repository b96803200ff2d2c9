/* One .safetensors file: a strict streaming reader of its header, and the header of a file to write.
 * Layout: u64 little-endian header length N, N bytes of JSON, data. Untrusted bytes stop here: whatever passes has
 * known dtypes, checked sizes, and tensors that cover the data without overlap, hole or tail. */
#ifndef MLXQ_SAFETENSORS_SAFETENSORS_H
#define MLXQ_SAFETENSORS_SAFETENSORS_H

#include "base/error.h"
#include "tensor/tensor_map.h"

/* Limits, each tested. A header must be below the first (as MLX requires); a name at most the second; a map that is
 * read into holds at most the third, from all its files. */
#define MLXQ_SAFETENSORS_MAX_HEADER_BYTES 100000000u
#define MLXQ_SAFETENSORS_MAX_NAME_BYTES   4096u
#define MLXQ_SAFETENSORS_MAX_TENSORS      10000000u

/* Reads the header of the open file of `file_bytes` bytes and describes its tensors in `weights`, in the order of
 * their data, with `file` and the absolute offset of each. Memory is a small fixed buffer beside what `weights`
 * keeps. A file that breaks the format is MLXQ_CORRUPT (a product that overflows: MLXQ_OVERFLOW), with `path`, the
 * tensor as key where there is one, and the reason; so is a name that `weights` has already. What the format allows
 * and nobody needs is MLXQ_UNSUPPORTED: an empty name, one beyond the limit, more than MLXQ_MAX_RANK dimensions. On
 * failure `weights` may hold some of the tensors. `weights` needs exclusive use. */
mlxq_status mlxq_safetensors_read(mlxq_weights *weights, uint32_t file, int fd, uint64_t file_bytes, const char *path,
                                  mlxq_error *error);

/* The same for those who list flaws: tensors that overlap, holes, a tail, and padding that is not spaces are told to
 * `flaws` (all of them, with `path`) and do not fail the call; any other breach of the format does. */
mlxq_status mlxq_safetensors_survey(mlxq_weights *weights, uint32_t file, int fd, uint64_t file_bytes, const char *path,
                                    const mlxq_flaws *flaws, mlxq_error *error);

/* Lays out one file with the tensors `indices[0..count)` of `weights`: orders `indices` by alignment (widest element
 * first), then name; sets each tensor's file and absolute offset, contiguous from the end of the header; and makes
 * the header (length word, JSON with __metadata__ {"format": "mlx"}, spaces to a multiple of 8), which the caller
 * frees. `*file_bytes` is the size of the whole file. MLXQ_OVERFLOW where the header would reach
 * MLXQ_SAFETENSORS_MAX_HEADER_BYTES or the file 63 bits; MLXQ_UNSUPPORTED for a name that the reader would not give
 * back: empty, too long, not UTF-8, "__metadata__". On failure the tensors keep their places. Exclusive use. */
mlxq_status mlxq_safetensors_layout(mlxq_weights *weights, uint32_t file, size_t *indices, size_t count, char **header,
                                    size_t *header_bytes, uint64_t *file_bytes, mlxq_error *error);

#endif
