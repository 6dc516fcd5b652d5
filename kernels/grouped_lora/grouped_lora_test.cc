#include "kernels/grouped_lora/grouped_lora.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/random.h"
#include "kernels/grouped_lora/grouped_lora_reference.h"

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/grouped_lora/grouped_lora.inc"
#include "kernels/norm/targets.inc"

template <typename T>
void ProjectOn(Target target, const LoraRows<const T>& rows, int64_t begin, int64_t end) {
  if (target == kBestTarget) return LoraProject(rows, begin, end);
  WEFT_CALL(target, Project<T>, rows, begin, end);
}

template <typename T>
void ExpandOn(Target target, const LoraRows<T>& rows, int64_t begin, int64_t end) {
  if (target == kBestTarget) return LoraExpand(rows, begin, end);
  WEFT_CALL(target, Expand<T>, rows, begin, end);
}

template <typename T>
void AddGradientOn(Target target, const LoraRows<const T>& rows, int64_t begin, int64_t end) {
  if (target == kBestTarget) return LoraAddGradient(rows, begin, end);
  WEFT_CALL(target, AddGradient<T>, rows, begin, end);
}

std::vector<Target> Targets() {
  std::vector<Target> targets;
  for (const Target target : {Target::kBaseline, Target::kAvx2, Target::kAvx512, Target::kAvx512Bf16}) {
    if (target <= kBestTarget) targets.push_back(target);
  }
  return targets;
}

// Largest difference over the largest value. fp32 differs by the order of sums: measured 5.2e-7. Rows in bf16 differ by
// a rounding that falls to the other side: measured 1.2e-3.
constexpr double kTolerance = 2e-6;
constexpr double kBf16Tolerance = 4e-3;

struct Segment {
  int64_t rows, rank;
};

// Members over one wide matrix, with everything that the three products read and write.
template <typename T>
struct Problem {
  Problem(const std::vector<Segment>& segments, int64_t width, bool transposed, int64_t padding = 0,
          float scale = 0.75f)
      : width(width), stride(width + padding), transposed(transposed), scale(scale) {
    Philox random(7, 1);
    const auto draw = [&](std::vector<float>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(static_cast<float>(random.NextNormal()));
    };
    for (const Segment& segment : segments) {
      draw(values, segment.rank * width);
      draw(low, segment.rank * segment.rows);
    }
    draw(gradient, static_cast<int64_t>(values.size()));
    for (const Segment& segment : segments) {
      const int64_t begin = factors.empty() ? 0 : factors.back().end;
      factors.push_back({.begin = begin, .end = begin + segment.rows, .rank = segment.rank});
    }
    wide.resize((factors.back().end + 3) * stride);  // three rows are nobody's
    for (T& value : wide) ReferenceStore(random.NextNormal(), &value);
  }

  // Factors over these vectors.
  std::vector<LoraFactor> Over(std::vector<float>& to_low, std::vector<float>& to_gradient) {
    std::vector<LoraFactor> result = factors;
    int64_t value = 0, row = 0;
    for (LoraFactor& factor : result) {
      factor.values = values.data() + value;
      factor.gradient = to_gradient.data() + value;
      factor.low = to_low.data() + row;
      value += factor.rank * width;
      row += factor.rank * (factor.end - factor.begin);
    }
    return result;
  }

  template <typename U>
  LoraRows<U> Rows(U* data, std::span<const LoraFactor> over) const {
    return {.rows = data, .stride = stride, .width = width, .factors = over, .transposed = transposed, .scale = scale};
  }

  int64_t width, stride;
  bool transposed;
  float scale;
  std::vector<float> values, low, gradient;
  std::vector<T> wide;
  std::vector<LoraFactor> factors;
};

template <typename T>
double Difference(const std::vector<T>& a, const std::vector<T>& b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(ReferenceValue(a[i]) - ReferenceValue(b[i])));
    largest = std::max(largest, std::abs(ReferenceValue(b[i])));
    if (std::isnan(ReferenceValue(a[i]))) return NAN;
  }
  return difference / largest;
}

template <typename T>
struct Outcome {
  std::vector<float> low, gradient;
  std::vector<T> wide;
};

// All three products, the kernels in so many calls, back to front.
template <typename T>
Outcome<T> Kernels(Problem<T> problem, int64_t split, Target target = kBestTarget) {
  Outcome<T> out = {.low = problem.low, .gradient = problem.gradient, .wide = problem.wide};
  std::vector<float> projected(problem.low.size());
  const std::vector<LoraFactor> given = problem.Over(problem.low, out.gradient);
  const std::vector<LoraFactor> project = problem.Over(projected, out.gradient);
  const auto each = [&](int64_t items, const auto& f) {
    for (int64_t part = split - 1; part >= 0; --part) f(items * part / split, items * (part + 1) / split);
  };
  each(LoraRowBlocks(project), [&](int64_t begin, int64_t end) {
    ProjectOn<T>(target, problem.template Rows<const T>(problem.wide.data(), project), begin, end);
  });
  each(LoraRowBlocks(given), [&](int64_t begin, int64_t end) {
    ExpandOn<T>(target, problem.template Rows<T>(out.wide.data(), given), begin, end);
  });
  each(LoraColumnPanels(given, problem.width), [&](int64_t begin, int64_t end) {
    AddGradientOn<T>(target, problem.template Rows<const T>(problem.wide.data(), given), begin, end);
  });
  out.low = projected;
  return out;
}

template <typename T>
Outcome<T> Reference(Problem<T> problem) {
  Outcome<T> out = {.low = problem.low, .gradient = problem.gradient, .wide = problem.wide};
  std::vector<float> projected(problem.low.size());
  const std::vector<LoraFactor> given = problem.Over(problem.low, out.gradient);
  const std::vector<LoraFactor> project = problem.Over(projected, out.gradient);
  ReferenceProject(problem.template Rows<const T>(problem.wide.data(), project));
  ReferenceExpand(problem.template Rows<T>(out.wide.data(), given));
  ReferenceAddGradient(problem.template Rows<const T>(problem.wide.data(), given));
  out.low = projected;
  return out;
}

const std::vector<Segment> kUnequal = {{70, 8}, {0, 4},  {1, 1},    {129, 16}, {3, 5},
                                       {17, 2}, {0, 64}, {200, 23}, {64, 64}};

template <typename T>
void ExpectEqual(const Outcome<T>& a, const Outcome<T>& b, double wide_tolerance, const std::string& where) {
  EXPECT_LT(Difference(a.low, b.low), kTolerance) << where;
  EXPECT_LT(Difference(a.gradient, b.gradient), kTolerance) << where;
  EXPECT_LT(Difference(a.wide, b.wide), wide_tolerance) << where;
}

template <typename T>
void ExpectAllShapes(double wide_tolerance) {
  for (const int64_t width : {256, 100, 33, 7, 530}) {
    for (const bool transposed : {false, true}) {
      for (const int64_t padding : {0, 5}) {
        const Problem<T> problem(kUnequal, width, transposed, padding);
        const Outcome<T> expected = Reference(problem);
        for (const Target target : Targets()) {
          ExpectEqual(Kernels(problem, 1, target), expected, wide_tolerance,
                      std::to_string(width) + (transposed ? " transposed" : "") + " padded by " +
                          std::to_string(padding) + " on target " + std::to_string(static_cast<int>(target)));
        }
      }
    }
  }
}

TEST(GroupedLoraTest, AllProducts_EqualTheReference) { ExpectAllShapes<float>(kTolerance); }

TEST(GroupedLoraTest, AllProducts_EqualTheReferenceInBf16) { ExpectAllShapes<uint16_t>(kBf16Tolerance); }

TEST(GroupedLoraTest, AllProducts_DifferWhereTheScaleDoes) {
  const Problem<float> problem(kUnequal, 100, true), other(kUnequal, 100, true, 0, 0.7501f);
  const Outcome<float> a = Kernels(problem, 1), b = Reference(other);
  EXPECT_GT(Difference(a.low, b.low), kTolerance);
  EXPECT_GT(Difference(a.gradient, b.gradient), kTolerance);
  EXPECT_GT(Difference(a.wide, b.wide), kTolerance);
  const Problem<uint16_t> bf16(kUnequal, 100, true), far(kUnequal, 100, true, 0, 0.77f);
  EXPECT_GT(Difference(Kernels(bf16, 1).wide, Reference(far).wide), kBf16Tolerance);
}

TEST(GroupedLoraTest, AllProducts_EveryRank) {
  for (int64_t rank = 1; rank <= 64; ++rank) {
    for (const bool transposed : {false, true}) {
      const Problem<float> problem({{19, rank}}, 70, transposed);
      const Outcome<float> expected = Reference(problem);
      for (const Target target : Targets()) {
        ExpectEqual(Kernels(problem, 1, target), expected, kTolerance, "rank " + std::to_string(rank));
      }
    }
  }
}

TEST(GroupedLoraTest, AllProducts_AnySplitSameBits) {
  for (const bool transposed : {false, true}) {
    const Problem<uint16_t> problem(kUnequal, 200, transposed);
    const Outcome<uint16_t> whole = Kernels(problem, 1);
    for (const int64_t split : {2, 3, 7, 40}) {
      const Outcome<uint16_t> parts = Kernels(problem, split);
      EXPECT_EQ(whole.low, parts.low);
      EXPECT_EQ(whole.gradient, parts.gradient);
      EXPECT_EQ(whole.wide, parts.wide);
    }
  }
}

// A member's part is the same whoever else is there.
TEST(GroupedLoraTest, AllProducts_SameBitsInAnyCompany) {
  Problem<float> three({{70, 8}, {90, 12}, {5, 3}}, 300, true), alone({{90, 12}}, 300, true);
  std::copy_n(three.values.begin() + 8 * 300, 12 * 300, alone.values.begin());
  std::copy_n(three.gradient.begin() + 8 * 300, 12 * 300, alone.gradient.begin());
  std::copy_n(three.low.begin() + 70 * 8, 90 * 12, alone.low.begin());
  std::copy_n(three.wide.begin() + 70 * 300, 90 * 300, alone.wide.begin());
  const Outcome<float> a = Kernels(three, 1), b = Kernels(alone, 1);
  EXPECT_TRUE(std::equal(b.low.begin(), b.low.end(), a.low.begin() + 70 * 8));
  EXPECT_TRUE(std::equal(b.gradient.begin(), b.gradient.end(), a.gradient.begin() + 8 * 300));
  EXPECT_TRUE(std::equal(b.wide.begin(), b.wide.begin() + 90 * 300, a.wide.begin() + 70 * 300));
}

TEST(GroupedLoraTest, LoraExpand_LeavesNobodysRowsAlone) {
  const Problem<float> problem({{5, 2}, {0, 1}}, 40, false, 3);
  const Outcome<float> out = Kernels(problem, 1);
  for (int64_t i = 0; i < 8; ++i) {
    for (int64_t c = 0; c < 43; ++c) {
      if (i < 5 && c < 40) continue;
      EXPECT_EQ(out.wide[i * 43 + c], problem.wide[i * 43 + c]) << i << ", " << c;
    }
  }
}

TEST(GroupedLoraTest, LoraAddGradient_PassesOverWhatIsNotWanted) {
  Problem<float> problem({{5, 2}, {6, 2}}, 40, false);
  std::vector<float> gradient = problem.gradient;
  std::vector<LoraFactor> factors = problem.Over(problem.low, gradient);
  factors[0].gradient = nullptr;
  EXPECT_EQ(LoraColumnPanels(factors, 40), 1);
  LoraAddGradient(problem.Rows<const float>(problem.wide.data(), factors), 0, 1);
  EXPECT_TRUE(std::equal(gradient.begin(), gradient.begin() + 80, problem.gradient.begin()));
  EXPECT_NE(gradient[80], problem.gradient[80]);
}

}  // namespace
}  // namespace weft::kernels
