/* Marks what the shared library exports. */
#ifndef MLXQ_EXPORT_H
#define MLXQ_EXPORT_H

#if defined(__cplusplus)
#define MLXQ_API extern "C"
#elif defined(__GNUC__) && defined(MLXQ_BUILDING)
#define MLXQ_API __attribute__((visibility("default")))
#else
#define MLXQ_API
#endif

#endif
