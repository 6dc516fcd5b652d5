// How fast attention is on one thread. Prints name=value lines: nanoseconds a token and GFLOP/s, forward and backward,
// for many short rows (MiniLM) and for a long causal one (Llama 3.2 1B), by the best of a number of runs. A product of
// [m, k] and [k, n] counts as 2mkn, of causal scores only those that are seen: two products forward, five backward.
//
//   attention_bench [PART]    all cases, or those with PART in their names

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "common/half.h"
#include "common/random.h"
#include "kernels/attention/attention.h"

namespace weft::kernels {
namespace {

constexpr int kRepeats = 5;  // at least
constexpr double kSeconds = 0.2;

// Of CPU time, which other programs take less from.
double Now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

template <typename Work>
double BestSeconds(const Work& work) {
  double best = std::numeric_limits<double>::infinity(), total = 0;
  for (int i = 0; i < kRepeats || total < kSeconds; ++i) {
    const double start = Now();
    work();
    const double seconds = Now() - start;
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

void Print(const std::string& name, double seconds, int64_t tokens, double flop) {
  std::printf("%s_ns_per_token=%.1f\n%s_gflops=%.1f\n", name.c_str(), seconds * 1e9 / static_cast<double>(tokens),
              name.c_str(), flop / seconds * 1e-9);
}

template <typename T>
void Measure(const std::string& name, int64_t rows, int64_t length, AttentionProblem problem) {
  std::vector<int64_t> offsets;
  for (int64_t row = 0; row <= rows; ++row) offsets.push_back(row * length);
  const int64_t tokens = rows * length, half = problem.rotated / 2;
  const std::vector<float> angles(length * half, 0.6f);
  problem.key_offsets = problem.query_offsets = offsets.data();
  problem.rows = rows;
  problem.cos = problem.sin = angles.data();
  const int64_t width = problem.heads * problem.head_dim, key_width = problem.key_heads * problem.head_dim,
                stride = width + 2 * key_width;
  std::vector<T> packed(tokens * stride), out(tokens * width), gradient(tokens * stride);
  std::vector<float> log_sum(tokens * problem.heads);
  Philox random(1, 1);
  for (T& value : packed) {
    const auto drawn = static_cast<float>(random.NextNormal());
    if constexpr (std::is_same_v<T, float>) {
      value = drawn;
    } else {
      value = ToBf16(drawn);
    }
  }
  const AttentionInputs<T> in = {
      {packed.data(), stride}, {packed.data() + width, stride}, {packed.data() + width + key_width, stride}};
  const AttentionGradients<T> gradients = {
      {gradient.data(), stride}, {gradient.data() + width, stride}, {gradient.data() + width + key_width, stride}};
  const std::vector<AttentionItem> items = AttentionItems(problem);
  const double seen = static_cast<double>(tokens) * static_cast<double>(problem.causal ? length + 1 : 2 * length) / 2,
               flop = 2 * seen * static_cast<double>(width);
  Print(name + "_forward", BestSeconds([&] {
          AttentionForward(problem, in, {out.data(), width}, log_sum.data(), items.data(),
                           static_cast<int64_t>(items.size()));
        }),
        tokens, 2 * flop);
  Print(name + "_backward", BestSeconds([&] {
          AttentionBackward(problem, in, log_sum.data(), {out.data(), width}, gradients, 0, rows * problem.key_heads);
        }),
        tokens, 5 * flop);
}

void MeasureAll(const std::string& part) {
  const AttentionProblem minilm = {.heads = 12, .key_heads = 12, .head_dim = 32};
  const auto wanted = [&](const std::string& name) { return name.find(part) != std::string::npos; };
  AttentionProblem llama = {.heads = 32, .key_heads = 32, .head_dim = 64, .causal = true};
  if (wanted("short_fp32")) Measure<float>("short_fp32", 64, 15, minilm);
  if (wanted("short_bf16")) Measure<uint16_t>("short_bf16", 64, 15, minilm);
  if (wanted("long_fp32")) Measure<float>("long_fp32", 1, 512, llama);
  if (wanted("long_bf16")) Measure<uint16_t>("long_bf16", 1, 512, llama);
  llama.key_heads = 8;
  llama.rotated = 64;
  if (wanted("grouped_rotary_bf16")) Measure<uint16_t>("grouped_rotary_bf16", 1, 512, llama);
  llama.heads = 4;
  llama.key_heads = 1;
  if (wanted("longest_bf16")) Measure<uint16_t>("longest_bf16", 1, 4096, llama);
}

}  // namespace
}  // namespace weft::kernels

int main(int argc, char** argv) {
  weft::kernels::MeasureAll(argc > 1 ? argv[1] : "");
  return 0;
}
