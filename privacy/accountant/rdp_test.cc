#include "privacy/accountant/rdp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>

namespace weft::privacy {
namespace {

using ::testing::HasSubstr;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// The tables below carry four decimals, so one of the smallest entries is known to 5e-5 / 0.7; seen: 6e-5 at most.
constexpr double kTableTolerance = 1e-3;

struct Golden {
  double q, noise_multiplier;
  int64_t steps;
  double delta, epsilon;
};

// Computed by Google's dp_accounting 0.6.0; tests/golden/rdp_parity.py compares many more to all digits.
constexpr Golden kGolden[] = {
    {1, 1, 1, 1e-5, 4.7285},      {1, 2, 1, 1e-5, 2.1657},        {1, 5, 100, 1e-5, 10.7255},
    {.01, 1, 1000, 1e-5, 2.1014}, {.01, .8, 1000, 1e-5, 3.6956},  {.1, 1, 100, 1e-5, 7.9039},
    {.1, 2, 200, 1e-5, 3.6797},   {.02, 1.1, 2000, 1e-6, 5.7183}, {256.0 / 60000, 1.1, 14062, 1e-5, 2.5966},
};

double EpsilonOf(const Golden& g, double factor = 1) {
  RdpAccountant accountant;
  EXPECT_TRUE(accountant.Add(g.q, g.noise_multiplier * factor, g.steps).ok());
  return accountant.Epsilon(g.delta)->epsilon;
}

TEST(RdpAccountantTest, Epsilon_GoldenTable) {
  for (const Golden& g : kGolden) {
    EXPECT_NEAR(EpsilonOf(g), g.epsilon, kTableTolerance * g.epsilon) << g.q << " " << g.noise_multiplier;
    // Noise that is off by half a percent must show.
    EXPECT_GT(std::abs(EpsilonOf(g, 1.005) - g.epsilon), kTableTolerance * g.epsilon) << g.q;
  }
}

TEST(NoiseMultiplierForTest, GoldenTable) {
  struct {
    double epsilon, few, some, all;  // noise multipliers for (q .02, 1000 steps), (.1, 100), (1, 50)
  } const table[] = {{1, 2.7135, 4.2776, 28.6052},
                     {3, 1.2163, 1.7961, 10.5586},
                     {6, .8622, 1.1615, 5.7560},
                     {8, .7677, .9937, 4.5090}};
  for (const auto& row : table) {
    for (const auto& [q, steps, expected] :
         {std::tuple{.02, 1000, row.few}, std::tuple{.1, 100, row.some}, std::tuple{1., 50, row.all}}) {
      const NoiseTarget target{.epsilon = row.epsilon, .delta = 1e-5, .q = q, .steps = steps};
      EXPECT_NEAR(*NoiseMultiplierFor(target), expected, kTableTolerance * expected) << row.epsilon << " " << q;
      const NoiseTarget perturbed{.epsilon = row.epsilon * 1.01, .delta = 1e-5, .q = q, .steps = steps};
      EXPECT_GT(std::abs(*NoiseMultiplierFor(perturbed) - expected), kTableTolerance * expected)
          << row.epsilon << " " << q;
    }
  }
}

TEST(NoiseMultiplierForTest, IsEnoughAndNoMore) {
  for (const double epsilon : {.01, .5, 8., 500.}) {
    const double found = *NoiseMultiplierFor({.epsilon = epsilon, .delta = 1e-5, .q = .05, .steps = 300});
    EXPECT_LE(EpsilonOf({.05, found, 300, 1e-5, 0}), epsilon);
    EXPECT_GT(EpsilonOf({.05, found, 300, 1e-5, 0}, 1 - 2e-6), epsilon);
  }
}

TEST(NoiseMultiplierForTest, OutOfRange_Refused) {
  const NoiseTarget good{.epsilon = 1, .delta = 1e-5, .q = .1, .steps = 10};
  for (const double epsilon : {0., -1., kInf, kNan}) {
    NoiseTarget bad = good;
    bad.epsilon = epsilon;
    EXPECT_THAT(std::string(NoiseMultiplierFor(bad).status().message()), HasSubstr("target epsilon"));
  }
  NoiseTarget bad = good;
  bad.delta = 1;
  EXPECT_THAT(std::string(NoiseMultiplierFor(bad).status().message()), HasSubstr("delta"));
  bad = good;
  bad.q = 0;
  EXPECT_THAT(std::string(NoiseMultiplierFor(bad).status().message()), HasSubstr("sampling probability"));
  bad = good;
  bad.steps = 0;
  EXPECT_THAT(std::string(NoiseMultiplierFor(bad).status().message()), HasSubstr("steps"));
}

TEST(NoiseMultiplierForTest, UnreachableEpsilon_Refused) {
  // 2^53 steps without sampling at epsilon 1e-3 need more noise than 1e6; one step at 1e9 needs less than 0.01.
  for (const NoiseTarget& target : {NoiseTarget{.epsilon = 1e-3, .delta = 1e-5, .q = 1, .steps = int64_t{1} << 53},
                                    NoiseTarget{.epsilon = 1e9, .delta = 1e-5, .q = 1, .steps = 1}}) {
    EXPECT_EQ(NoiseMultiplierFor(target).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(NoiseMultiplierFor(target).status().message()), HasSubstr("no noise multiplier"));
  }
}

TEST(SampledGaussianRdpTest, FullSampling_IsTheGaussians) {
  EXPECT_DOUBLE_EQ(SampledGaussianRdp(1, 2, 3.5), 3.5 / 8);
  // And the sampled formulas come to it as q goes to 1.
  EXPECT_NEAR(SampledGaussianRdp(1 - 1e-9, 2, 3.5), 3.5 / 8, 1e-7);
  EXPECT_NEAR(SampledGaussianRdp(1 - 1e-9, 2, 4), 4 / 8., 1e-7);
}

TEST(SampledGaussianRdpTest, OrderTwo_IsTheClosedForm) {
  for (const double q : {1e-9, 1e-4, .1, .7}) {
    for (const double noise : {.5, 1., 8.}) {
      const double expected = std::log1p(q * q * std::expm1(1 / (noise * noise)));
      EXPECT_NEAR(SampledGaussianRdp(q, noise, 2), expected, 1e-14 * expected) << q << " " << noise;
    }
  }
}

// The divergence by quadrature of its definition, E_{x ~ N(0, s^2)} ((1-q) + q exp((2x-1)/(2 s^2)))^a: trapezoids,
// which converge fast on a function that is smooth and vanishes at both ends.
double RdpByQuadrature(double q, double s, double order) {
  double sum = 0;
  const double step = s / 200;
  for (double x = -40 * s; x <= 40 * s + order; x += step) {
    const double log_ratio = std::log(1 - q + q * std::exp((2 * x - 1) / (2 * s * s)));
    sum += std::exp(-x * x / (2 * s * s) + order * log_ratio);
  }
  return std::log(sum * step / (s * std::sqrt(2 * M_PI))) / (order - 1);
}

TEST(SampledGaussianRdpTest, AgreesWithQuadrature) {
  double worst = 0;
  for (const double q : {.01, .1, .5, .9}) {
    for (const double noise : {.7, 1., 3.}) {
      for (const double order : {1.1, 1.9, 2.5, 3., 7.3, 10.9, 12.}) {
        const double expected = RdpByQuadrature(q, noise, order);
        worst = std::max(worst, std::abs(SampledGaussianRdp(q, noise, order) / expected - 1));
        // An order that is off by a thousandth must show.
        EXPECT_GT(std::abs(SampledGaussianRdp(q, noise, order * 1.001) / expected - 1), 1e-6) << q << " " << order;
      }
    }
  }
  EXPECT_LT(worst, 1e-8);  // seen: 3e-9
}

TEST(SampledGaussianRdpTest, GrowsWithOrderAndQ_ShrinksWithNoise) {
  for (const double q : {1e-4, .02, .3}) {
    for (const double noise : {.3, 1.1, 20.}) {
      double before = 0;
      for (const double order : RdpOrders()) {
        const double rdp = SampledGaussianRdp(q, noise, order);
        EXPECT_GE(rdp, before * (1 - 1e-7)) << q << " " << noise << " " << order;
        EXPECT_LE(rdp, SampledGaussianRdp(1, noise, order) * (1 + 1e-12)) << q << " " << noise << " " << order;
        before = rdp;
      }
    }
  }
}

TEST(SampledGaussianRdpTest, EndsOfTheRange_AreFiniteAndBelowTheGaussian) {
  for (const double q : {1e-15, 1e-3, .5, 1 - 1e-12}) {
    for (const double noise : {1e-6, 1e-3, 1e4, 1e9}) {
      for (const double order : RdpOrders()) {
        const double rdp = SampledGaussianRdp(q, noise, order);
        EXPECT_GE(rdp, 0) << q << " " << noise << " " << order;
        // Rounding of a moment near 1 stays below 1e-14.
        EXPECT_LE(rdp, SampledGaussianRdp(1, noise, order) * (1 + 1e-12) + 1e-14 / (order - 1))
            << q << " " << noise << " " << order;
      }
    }
  }
  EXPECT_GT(SampledGaussianRdp(.1, 1e-3, 2), 9e5);  // log(q^2 exp(1e6))
  EXPECT_GT(SampledGaussianRdp(.1, 1e-3, 2.5), 9e5);
}

TEST(RdpOrdersTest, AreTheUsualOnes) {
  const auto orders = RdpOrders();
  ASSERT_EQ(orders.size(), 156u);
  EXPECT_EQ(orders[0], 1.1);
  EXPECT_EQ(orders[9], 2.0);
  EXPECT_EQ(orders[98], 10.9);
  EXPECT_EQ(orders[99], 11);
  EXPECT_EQ(orders[151], 63);
  EXPECT_EQ(orders[155], 1024);
}

TEST(RdpAccountantTest, Epsilon_NoSteps_IsZero) {
  EXPECT_EQ(RdpAccountant().Epsilon(1e-5)->epsilon, 0);
  EXPECT_EQ(RdpAccountant().Epsilon(1e-5)->order, 0);
}

TEST(RdpAccountantTest, Epsilon_BestOrder) {
  RdpAccountant accountant;
  ASSERT_TRUE(accountant.Add(.01, 1, 1000).ok());
  EXPECT_EQ(accountant.Epsilon(1e-5)->order, 1 + 68 / 10.0);  // 7.8, as dp_accounting says
}

TEST(RdpAccountantTest, Epsilon_NeverNegative) {
  RdpAccountant accountant;
  ASSERT_TRUE(accountant.Add(.001, 1e5, 1).ok());
  EXPECT_EQ(accountant.Epsilon(.5)->epsilon, 0);
}

TEST(RdpAccountantTest, Epsilon_HowStepsWereAddedChangesNoBit) {
  RdpAccountant whole, single;
  ASSERT_TRUE(whole.Add(.1, 1, 100).ok());
  ASSERT_TRUE(whole.Add(.02, 3, 50).ok());
  for (int i = 0; i < 100; ++i) {
    if (i < 50) {
      ASSERT_TRUE(single.Add(.02, 3, 1).ok());
    }
    ASSERT_TRUE(single.Add(.1, 1, 1).ok());
  }
  EXPECT_EQ(whole.Epsilon(1e-6)->epsilon, single.Epsilon(1e-6)->epsilon);
  EXPECT_EQ(whole.Save(), single.Save());
  EXPECT_EQ(single.steps(), 150);
}

TEST(RdpAccountantTest, Epsilon_DifferentMechanismsCompose) {
  RdpAccountant accountant;
  // Two steps without sampling at noise s are one at s / sqrt 2.
  ASSERT_TRUE(accountant.Add(1, 3, 1).ok());
  ASSERT_TRUE(accountant.Add(1, 4, 1).ok());
  const double together = 1 / std::sqrt(1 / 9. + 1 / 16.);
  EXPECT_NEAR(accountant.Epsilon(1e-5)->epsilon, EpsilonOf({1, together, 1, 1e-5, 0}), 1e-12);
}

TEST(RdpAccountantTest, Epsilon_BadDeltaRefused) {
  for (const double delta : {0., -1e-5, 1., 2., kNan}) {
    EXPECT_THAT(std::string(RdpAccountant().Epsilon(delta).status().message()), HasSubstr("delta"));
  }
}

TEST(RdpAccountantTest, Add_OutOfRangeRefusedWithoutTrace) {
  RdpAccountant accountant;
  ASSERT_TRUE(accountant.Add(.1, 1, 5).ok());
  const std::string before = accountant.Save();
  for (const double q : {0., -.1, 1.1, kNan}) {
    EXPECT_THAT(std::string(accountant.Add(q, 1, 1).message()), HasSubstr("sampling probability"));
  }
  for (const double noise : {0., -1., 1e-7, 1e10, kInf, kNan}) {
    EXPECT_THAT(std::string(accountant.Add(.1, noise, 1).message()), HasSubstr("noise multiplier"));
  }
  for (const int64_t steps : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::max(), int64_t{1} << 53}) {
    EXPECT_THAT(std::string(accountant.Add(.1, 1, steps).message()), HasSubstr("steps"));
  }
  EXPECT_EQ(accountant.Save(), before);
  EXPECT_EQ(accountant.steps(), 5);
}

TEST(RdpAccountantTest, SaveRestore_GoesOnWithTheSameBits) {
  RdpAccountant undisturbed, killed;
  for (RdpAccountant* accountant : {&undisturbed, &killed}) {
    ASSERT_TRUE(accountant->Add(1.0 / 3, 1.1, 40).ok());
    ASSERT_TRUE(accountant->Add(1, 7, 2).ok());
  }
  auto restored = RdpAccountant::Restore(killed.Save());
  ASSERT_TRUE(restored.ok()) << restored.status();
  for (RdpAccountant* accountant : {&undisturbed, &*restored}) ASSERT_TRUE(accountant->Add(1.0 / 3, 1.1, 60).ok());
  EXPECT_EQ(restored->Epsilon(1e-5)->epsilon, undisturbed.Epsilon(1e-5)->epsilon);
  EXPECT_EQ(restored->Save(), undisturbed.Save());
  EXPECT_EQ(RdpAccountant::Restore(RdpAccountant().Save())->steps(), 0);
}

TEST(RdpAccountantTest, Restore_DamagedTextRefused) {
  for (const char* text :
       {"", "weft-rdp 1", "weft-rdp 2\n", "weft-rdp 1\n0.1 1 5", "weft-rdp 1\n0.1 1\n", "weft-rdp 1\n0.1 x 5\n",
        "weft-rdp 1\n0.1 1 5.5\n", "weft-rdp 1\n\n", "weft-rdp 1\n0.1 1 5 6\n", "weft-rdp 1\n0.1 0 5\n",
        "weft-rdp 1\n1.5 1 5\n", "weft-rdp 1\n0.1 1 -5\n"}) {
    EXPECT_EQ(RdpAccountant::Restore(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace weft::privacy
