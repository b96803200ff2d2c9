/* What somebody who uses the library writes. consumer.cc is the same in C++. Quantizes an array, a map and a file, and
 * says what came out; exits with 0 where all of it is as it should be. Its argument is a file to write. */
#include <mlxq/mlxq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(mlxq_status status, const mlxq_error *error) {
  char line[4096];
  if (status == MLXQ_OK) return;
  mlxq_error_format(error, line, (int)sizeof line);
  fprintf(stderr, "%s: %s\n", mlxq_status_name(status), line);
  exit(1);
}

static void expect(bool holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "not so: %s\n", what);
  exit(1);
}

/* A safetensors file with one float32 tensor, a.weight, of 4 x 64 numbers. */
static void write_source(const char *path, const float *weight) {
  char header[104];
  unsigned char length[8] = {sizeof header - 1};
  FILE *file = fopen(path, "wb");
  expect(file != NULL, "the source can be written");
  memset(header, ' ', sizeof header);
  int used = snprintf(header, sizeof header, "%s",
                      "{\"a.weight\":{\"dtype\":\"F32\",\"shape\":[4,64],\"data_offsets\":[0,1024]}}");
  header[used] = ' ';
  expect(fwrite(length, 1, sizeof length, file) == sizeof length &&
             fwrite(header, 1, sizeof header - 1, file) == sizeof header - 1 && fwrite(weight, 4, 256, file) == 256 &&
             fclose(file) == 0,
         "the source is written");
}

int main(int argc, char **argv) {
  static float weight[256], back[256], scales[4], biases[4];
  static uint32_t packed[32];
  char source[1024], *text = NULL;
  const uint64_t shape[] = {4, 64};
  mlxq_error error;
  mlxq_scheme scheme = mlxq_scheme_default(MLXQ_AFFINE);
  mlxq_transform_options transform = MLXQ_TRANSFORM_OPTIONS_INIT;
  mlxq_quantize_options options = MLXQ_QUANTIZE_OPTIONS_INIT;
  mlxq_quant_config *config = NULL;
  mlxq_weights *dense = NULL, *quantized = NULL;
  mlxq_report *report = NULL;
  expect(argc == 2, "one argument");
  expect(strcmp(mlxq_version(), MLXQ_VERSION) == 0, "the header belongs to the library");
  for (int i = 0; i < 256; i++) weight[i] = (float)(i % 16) - 7.5f;

  check(mlxq_quantize_array(packed, scales, biases, weight, MLXQ_F32, 256, &scheme, MLXQ_PROFILE_CPU, false, &error),
        &error);
  check(mlxq_dequantize_array(back, MLXQ_F32, 256, packed, scales, biases, &scheme, MLXQ_PROFILE_CPU, &error), &error);
  for (int i = 0; i < 256; i++) {
    float lost = weight[i] - back[i];
    expect(lost > -1 && lost < 1, "the weights come back");
  }

  check(mlxq_weights_new(&dense, &error), &error);
  check(mlxq_weights_add_borrowed(dense, "a.weight", MLXQ_F32, 2, shape, weight, &error), &error);
  check(mlxq_quant_config_new(&config, &scheme, &error), &error);
  check(mlxq_quant_config_to_json(&text, config, &error), &error);
  check(mlxq_quantize_weights(&quantized, dense, config, NULL, NULL, &transform, &error), &error);
  const mlxq_tensor *codes = mlxq_weights_find(quantized, "a.weight");
  expect(codes && codes->bytes == sizeof packed && memcmp(codes->data, packed, sizeof packed) == 0,
         "a map gives what an array gives");

  snprintf(source, sizeof source, "%s.source", argv[1]);
  write_source(source, weight);
  options.common.force = true;
  check(mlxq_quantize_checkpoint(&report, source, argv[1], &options, &error), &error);
  expect(report->layers_changed == 1 && report->total_bytes == 160, "the file is quantized");
  printf("%s %s %llu bytes\n", mlxq_version(), text, (unsigned long long)report->total_bytes);

  mlxq_report_free(report);
  mlxq_weights_free(quantized);
  mlxq_weights_free(dense);
  mlxq_quant_config_free(config);
  mlxq_free(text);
  return 0;
}
