#include "kernels/attention/attention.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "common/half.h"
#include "common/random.h"
#include "kernels/attention/attention_reference.h"

namespace weft::kernels {
namespace {

// Measured for values of order one, outputs and gradients: fp32 6.4e-6 on the worst target; bf16 0.016, half a unit of
// gradients from 4 to 8, as results are rounded.
template <typename T>
constexpr double kTolerance = std::is_same_v<T, float> ? 1e-5 : 0.02;

// A change of one component of a key that must show.
template <typename T>
constexpr float kNudge = std::is_same_v<T, float> ? 1e-3f : 1.0f;

struct Case {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t heads, key_heads, head_dim;
  bool causal = false;
  int64_t window = 0;
  int64_t rotated = 0;
  int64_t every = 1;  // only each so many-th token of a row asks
};

const Case kCases[] = {
    {"OneTokenRows", {1, 1, 3, 1}, 2, 2, 8},
    {"ShortRows", {5, 1, 16, 17, 13, 33, 40}, 3, 3, 32},
    {"OddWidth", {7, 18, 31}, 2, 1, 6, true, 0, 6},
    {"LongRow", {3, 300}, 1, 1, 16},
    {"LongCausalRow", {270, 2}, 2, 1, 16, true, 0, 16},
    {"Grouped", {5, 1, 40, 17}, 6, 2, 32, true},
    {"Window", {5, 90, 33}, 2, 1, 16, true, 7, 8},
    {"Rotary", {9, 21}, 4, 2, 128, true, 0, 128},
    {"Widest", {9, 21}, 1, 1, 256},
    {"SomeQueries", {6, 41, 1, 90}, 4, 2, 32, false, 0, 32, 5},
    {"SomeQueriesCausal", {6, 41, 1, 90}, 4, 2, 32, true, 30, 32, 3},
};

template <typename T>
T Narrow(double value) {
  if constexpr (std::is_same_v<T, float>)
    return static_cast<float>(value);
  else
    return ToBf16(static_cast<float>(value));
}

template <typename T>
double Widen(T value) {
  if constexpr (std::is_same_v<T, uint16_t>)
    return FromBf16(value);
  else
    return value;
}

template <typename T>
std::vector<double> Widen(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T value : values) result.push_back(Widen<T>(value));
  return result;
}

template <typename T>
struct Result {
  std::vector<T> out, query, key_value;
};

// Queries of one matrix, keys and values side by side in another, each with a few columns that are not theirs.
template <typename T>
class Attention {
 public:
  explicit Attention(const Case& c) : key_offsets_{0}, query_offsets_{0} {
    for (const int64_t length : c.lengths) {
      for (int64_t i = 0; i < length; i += c.every) positions_.push_back(i);
      key_offsets_.push_back(key_offsets_.back() + length);
      query_offsets_.push_back(static_cast<int64_t>(positions_.size()));
    }
    problem_ = {.key_offsets = key_offsets_.data(),
                .query_offsets = query_offsets_.data(),
                .query_positions = c.every > 1 ? positions_.data() : nullptr,
                .rows = static_cast<int64_t>(c.lengths.size()),
                .heads = c.heads,
                .key_heads = c.key_heads,
                .head_dim = c.head_dim,
                .causal = c.causal,
                .sliding_window = c.window,
                .rotated = c.rotated};
    const int64_t longest = *std::max_element(c.lengths.begin(), c.lengths.end());
    for (int64_t i = 0; i < longest * c.rotated / 2; ++i) {
      cos_.push_back(1.1f * std::cos(static_cast<float>(i)));  // any numbers will do
      sin_.push_back(1.1f * std::sin(static_cast<float>(i)));
    }
    problem_.cos = cos_.data();
    problem_.sin = sin_.data();
    query_width_ = c.heads * c.head_dim, key_width_ = c.key_heads * c.head_dim;
    query_stride_ = query_width_ + 3, key_stride_ = 2 * key_width_ + 5;
    Philox random(1, 2);
    const auto fill = [&](std::vector<T>& to, int64_t size) {
      for (int64_t i = 0; i < size; ++i) to.push_back(Narrow<T>(random.NextNormal()));
    };
    fill(query_, query_offsets_.back() * query_stride_);
    fill(key_value_, key_offsets_.back() * key_stride_);
    fill(out_gradient_, query_offsets_.back() * query_width_);
  }

  void NudgeKey(double by) { key_value_[0] = Narrow<T>(Widen<T>(key_value_[0]) + by); }
  void SetQuery(int64_t query, int64_t column, T value) { query_[query * query_stride_ + column] = value; }
  const AttentionProblem& problem() const { return problem_; }
  int64_t query_stride() const { return query_stride_; }

  // In parts of so many items and pairs.
  Result<T> Run(int64_t part = std::numeric_limits<int32_t>::max()) const {
    // What is not to be written stays.
    Result<T> result = {.out = std::vector<T>(query_offsets_.back() * query_width_, Narrow<T>(7)),
                        .query = std::vector<T>(query_.size(), Narrow<T>(7)),
                        .key_value = std::vector<T>(key_value_.size(), Narrow<T>(7))};
    std::vector<float> log_sum(query_offsets_.back() * problem_.heads);
    const AttentionInputs<T> in = Inputs(query_.data(), key_value_.data());
    const std::vector<AttentionItem> items = AttentionItems(problem_);
    const auto count = static_cast<int64_t>(items.size());
    for (int64_t i = 0; i < count; i += part) {
      AttentionForward(problem_, in, {result.out.data(), query_width_}, log_sum.data(), items.data() + i,
                       std::min(part, count - i));
    }
    const AttentionGradients<T> gradients = {{result.query.data(), query_stride_},
                                             {result.key_value.data(), key_stride_},
                                             {result.key_value.data() + key_width_, key_stride_}};
    const int64_t pairs = problem_.rows * problem_.key_heads;
    for (int64_t i = 0; i < pairs; i += part) {
      AttentionBackward(problem_, in, log_sum.data(), {out_gradient_.data(), query_width_}, gradients, i,
                        std::min(i + part, pairs));
    }
    return result;
  }

  // The same by the reference, in the same places.
  Result<double> Reference() const {
    const std::vector<double> query = Widen(query_), key_value = Widen(key_value_);
    const AttentionReference reference =
        ComputeAttentionReference(problem_, Inputs(query.data(), key_value.data()), Widen(out_gradient_));
    Result<double> result = {.out = reference.out,
                             .query = std::vector<double>(query.size(), 7),
                             .key_value = std::vector<double>(key_value.size(), 7)};
    for (int64_t i = 0; i < query_offsets_.back(); ++i) {
      std::copy_n(&reference.query_gradient[i * query_width_], query_width_, &result.query[i * query_stride_]);
    }
    for (int64_t i = 0; i < key_offsets_.back(); ++i) {
      double* to = &result.key_value[i * key_stride_];
      std::copy_n(&reference.key_gradient[i * key_width_], key_width_, to);
      std::copy_n(&reference.value_gradient[i * key_width_], key_width_, to + key_width_);
    }
    return result;
  }

 private:
  template <typename V>
  AttentionInputs<V> Inputs(const V* query, const V* key_value) const {
    return {{query, query_stride_}, {key_value, key_stride_}, {key_value + key_width_, key_stride_}};
  }

  std::vector<int64_t> key_offsets_, query_offsets_, positions_;
  std::vector<float> cos_, sin_;
  AttentionProblem problem_;
  int64_t query_width_, key_width_, query_stride_, key_stride_;
  std::vector<T> query_, key_value_, out_gradient_;
};

template <typename T>
double Difference(const std::vector<T>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double difference = std::abs(Widen<T>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // keeps a NaN
  }
  return largest;
}

template <typename T>
double Difference(const Result<T>& a, const Result<double>& b) {
  return std::max({Difference(a.out, b.out), Difference(a.query, b.query), Difference(a.key_value, b.key_value)});
}

template <typename Body>
void OnEveryTarget(Body body) {
  hwy::SetSupportedTargetsForTest(0);
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
}

class AttentionTest : public ::testing::TestWithParam<Case> {
 protected:
  template <typename T>
  void ExpectReference() const {
    Attention<T> attention(GetParam());
    const Result<double> reference = attention.Reference();
    OnEveryTarget([&] { EXPECT_LT(Difference(attention.Run(), reference), kTolerance<T>); });
    attention.NudgeKey(kNudge<T>);
    // A row of one token does not depend on its key.
    if (GetParam().lengths[0] > 1) {
      EXPECT_GT(Difference(attention.Run(), reference), kTolerance<T>);
    }
  }
};

TEST_P(AttentionTest, Fp32_EqualsReferenceOnEveryTarget) { ExpectReference<float>(); }

TEST_P(AttentionTest, Bf16_EqualsReferenceOnEveryTarget) { ExpectReference<uint16_t>(); }

TEST_P(AttentionTest, AnySplit_GivesTheSameBits) {
  const Attention<float> attention(GetParam());
  OnEveryTarget([&] {
    const Result<float> whole = attention.Run();
    for (const int64_t part : {1, 3}) {
      const Result<float> parts = attention.Run(part);
      EXPECT_EQ(whole.out, parts.out);
      EXPECT_EQ(whole.query, parts.query);
      EXPECT_EQ(whole.key_value, parts.key_value);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// Divergence must stay visible: a NaN spoils its own query's head and nothing else of the result.
TEST(AttentionNanTest, Forward_NanStaysInItsRowAndHead) {
  Attention<float> attention({"", {13, 20}, 2, 2, 32});
  attention.SetQuery(14, 40, std::nanf(""));
  OnEveryTarget([&] {
    const std::vector<float> out = attention.Run().out;
    for (int64_t i = 0; i < 33 * 64; ++i) EXPECT_EQ(std::isnan(out[i]), i / 32 == 14 * 2 + 1) << i;
  });
}

TEST(AttentionItemsTest, LongRows_AreCutByQueries) {
  const Attention<float> attention({"", {300, 2}, 2, 1, 8});
  const std::vector<AttentionItem> items = AttentionItems(attention.problem());
  ASSERT_EQ(items.size(), 4);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(items[i].row, 0);
    EXPECT_EQ(items[i].begin, i * 256);
    EXPECT_EQ(items[i].end, std::min<int64_t>(600, (i + 1) * 256));
  }
  EXPECT_EQ(items[3].row, 1);
  EXPECT_EQ(items[3].end, 4);
}

}  // namespace
}  // namespace weft::kernels
