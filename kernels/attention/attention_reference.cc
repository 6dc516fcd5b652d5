#include "kernels/attention/attention_reference.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace weft::kernels {
namespace {

// x [head_dim] turned to a position, or by the transposed of that.
std::vector<double> Turned(const AttentionProblem& problem, std::vector<double> x, int64_t position, bool back) {
  const int64_t half = problem.rotated / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double c = problem.cos[position * half + i], s = (back ? -1 : 1) * problem.sin[position * half + i];
    const double first = x[i], second = x[half + i];
    x[i] = first * c - second * s;
    x[half + i] = second * c + first * s;
  }
  return x;
}

std::vector<double> Head(const AttentionColumns<const double>& from, int64_t token, int64_t head, int64_t dim) {
  const double* begin = from.data + token * from.stride + head * dim;
  return {begin, begin + dim};
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void AddTo(double* to, double factor, const std::vector<double>& x) {
  for (size_t i = 0; i < x.size(); ++i) to[i] += factor * x[i];
}

bool Sees(const AttentionProblem& problem, int64_t position, int64_t key) {
  if (!problem.causal) return true;
  return key <= position && (problem.sliding_window == 0 || position - key < problem.sliding_window);
}

void Attend(const AttentionProblem& problem, const AttentionInputs<double>& in, const std::vector<double>& out_gradient,
            int64_t row, int64_t query, int64_t head, AttentionReference& result) {
  const int64_t dim = problem.head_dim, key_head = head * problem.key_heads / problem.heads;
  const int64_t position =
      problem.query_positions != nullptr ? problem.query_positions[query] : query - problem.query_offsets[row];
  const int64_t first = problem.key_offsets[row], keys = problem.key_offsets[row + 1] - first;
  const std::vector<double> q = Turned(problem, Head(in.query, query, head, dim), position, false);
  const int64_t at = (query * problem.heads + head) * dim;
  const std::vector<double> gradient(out_gradient.begin() + at, out_gradient.begin() + at + dim);
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<double> weight(keys);
  double sum = 0;
  for (int64_t j = 0; j < keys; ++j) {
    const std::vector<double> k = Turned(problem, Head(in.key, first + j, key_head, dim), j, false);
    weight[j] = Sees(problem, position, j) ? std::exp(scale * Dot(q, k)) : 0;
    sum += weight[j];
  }
  double mean = 0;
  for (int64_t j = 0; j < keys; ++j) {
    weight[j] /= sum;
    const std::vector<double> value = Head(in.value, first + j, key_head, dim);
    AddTo(result.out.data() + at, weight[j], value);
    mean += weight[j] * Dot(gradient, value);
  }
  std::vector<double> q_gradient(dim);
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t key_at = ((first + j) * problem.key_heads + key_head) * dim;
    const double score = scale * weight[j] * (Dot(gradient, Head(in.value, first + j, key_head, dim)) - mean);
    AddTo(q_gradient.data(), score, Turned(problem, Head(in.key, first + j, key_head, dim), j, false));
    AddTo(result.key_gradient.data() + key_at, score, Turned(problem, q, j, true));
    AddTo(result.value_gradient.data() + key_at, weight[j], gradient);
  }
  AddTo(result.query_gradient.data() + at, 1, Turned(problem, q_gradient, position, true));
}

}  // namespace

AttentionReference ComputeAttentionReference(const AttentionProblem& problem, const AttentionInputs<double>& in,
                                             const std::vector<double>& out_gradient) {
  const int64_t queries = problem.query_offsets[problem.rows], keys = problem.key_offsets[problem.rows];
  const auto zeros = [&](int64_t tokens, int64_t heads) {
    return std::vector<double>(tokens * heads * problem.head_dim);
  };
  AttentionReference result = {.out = zeros(queries, problem.heads),
                               .query_gradient = zeros(queries, problem.heads),
                               .key_gradient = zeros(keys, problem.key_heads),
                               .value_gradient = zeros(keys, problem.key_heads)};
  for (int64_t row = 0; row < problem.rows; ++row) {
    for (int64_t query = problem.query_offsets[row]; query < problem.query_offsets[row + 1]; ++query) {
      for (int64_t head = 0; head < problem.heads; ++head) Attend(problem, in, out_gradient, row, query, head, result);
    }
  }
  return result;
}

}  // namespace weft::kernels
