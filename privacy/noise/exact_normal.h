#ifndef WEFT_PRIVACY_NOISE_EXACT_NORMAL_H_
#define WEFT_PRIVACY_NOISE_EXACT_NORMAL_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>

namespace weft::privacy {

// Independent uniform bits in words of 32. Whoever fills it sees to it that kWordsPerDraw are left before each draw: a
// draw takes about 25, and needs more than 2048 with a probability below 2^-200. Running out aborts: the source is
// stuck.
class RandomWords {
 public:
  static constexpr int64_t kWordsPerDraw = 2048;

  RandomWords() = default;
  RandomWords(const uint32_t* begin, const uint32_t* end) : next_(begin), end_(end) {}
  int64_t left() const { return end_ - next_; }
  uint32_t Take() {
    if (next_ == end_) std::abort();
    return *next_++;
  }
  uint64_t Take64() {
    const uint64_t high = Take();
    return high << 32 | Take();
  }
  // Uniform below bound, exactly (rejection). bound >= 1.
  uint64_t Below(uint64_t bound) {
    const int unused = __builtin_clzll(bound);
    while (true) {
      const uint64_t draw = Take64() >> unused;
      if (draw < bound) return draw;
    }
  }

 private:
  const uint32_t* next_ = nullptr;
  const uint32_t* end_ = nullptr;
};

// A standard deviation in units of 2^-64 as mantissa * 2^(12 - shift): what a draw is multiplied with.
struct ScaledDeviation {
  uint64_t mantissa = 0;  // in [2^52, 2^53)
  int shift = 0;

  // stddev is a normal positive double; 2^-40 <= stddev <= 2^40 makes 12 <= shift <= 92.
  static ScaledDeviation Of(double stddev) {
    int exponent = 0;
    const double fraction = std::frexp(stddev, &exponent);  // in [0.5, 1)
    return {.mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53)), .shift = 53 - exponent};
  }
};

// The normal distribution, sampled exactly (Karney, "Sampling exactly from the normal distribution", ACM TOMS 42, 2016,
// algorithm N): a draw is sign * (k + x) with an integer k and an x in (0, 1) of whose binary digits as many are drawn
// as comparisons and the rounding ask for. There is no floating point in it, so no error and nothing to be approximate.
//
// kDigitBits bits are drawn at a time. 32 for use; with few, tests see the rare paths often. The distribution is the
// same.
template <int kDigitBits>
class ExactNormal {
 public:
  static_assert(64 % kDigitBits == 0 && kDigitBits <= 32);

  // N(0, stddev^2) rounded to the nearest multiple of 2^-64, in units of 2^-64.
  static __int128 Draw(const ScaledDeviation& stddev, RandomWords& words) {
    while (true) {
      const int k = DrawWhole(words);
      if (k < 0) continue;
      Uniform x;
      int accepted = 0;
      while (accepted <= k && AcceptFraction(k, x, words)) ++accepted;
      if (accepted <= k) continue;
      return Round(k, x, stddev, words);
    }
  }

 private:
  // A uniform real in (0, 1), of which the first `known` digits are drawn.
  struct Uniform {
    static constexpr int kMaxDigits = 256 / kDigitBits;
    std::array<uint32_t, kMaxDigits> digits{};
    int known = 0;

    uint32_t Digit(int i, RandomWords& words) {
      if (i == kMaxDigits) std::abort();  // two reals that agree in 256 bits: the source is stuck
      if (i == known) digits[known++] = words.Take() >> (32 - kDigitBits);
      return digits[i];
    }
  };

  static bool Less(Uniform& a, Uniform& b, RandomWords& words) {
    for (int i = 0;; ++i) {
      const uint32_t digit_a = a.Digit(i, words);
      const uint32_t digit_b = b.Digit(i, words);
      if (digit_a != digit_b) return digit_a < digit_b;
    }
  }

  // True with probability exp(-1/2): von Neumann's method. A run 1/2 > u1 > u2 > ... has n members or more with
  // probability (1/2)^n / n!, and its length is even with probability sum_n (-1/2)^n / n!.
  static bool ExpMinusHalf(RandomWords& words) {
    Uniform last;
    if (last.Digit(0, words) >> (kDigitBits - 1) != 0) return true;
    bool even = false;  // the run has one member
    while (true) {
      Uniform next;
      if (!Less(next, last, words)) return even;
      last = next;
      even = !even;
    }
  }

  // Steps N1 and N2: k >= 0 with probability proportional to exp(-k/2) exp(-k(k-1)/2) = exp(-k^2/2); -1 when rejected.
  static int DrawWhole(RandomWords& words) {
    int k = 0;
    while (ExpMinusHalf(words)) ++k;
    for (int64_t trial = int64_t{k} * (k - 1); trial > 0; --trial) {
      if (!ExpMinusHalf(words)) return -1;
    }
    return k;
  }

  // True with probability exp(-x (2k + x) / (2k + 2)): a run x > z1 > z2 > ... as above, where each member also passes
  // a trial of probability (2k + x) / (2k + 2). k + 1 of them are step N4: exp(-x (2k + x) / 2).
  static bool AcceptFraction(int k, Uniform& x, RandomWords& words) {
    const uint32_t parts = 2 * static_cast<uint32_t>(k) + 2;
    Uniform last;
    Uniform* bound = &x;
    bool even = true;
    while (true) {
      Uniform next;
      if (!Less(next, *bound, words)) return even;
      const uint64_t part = k == 0 ? words.Take() >> 31 : words.Below(parts);  // 0: fails; 1: as x says; others: pass
      if (part == 0) return even;
      if (part == 1) {
        Uniform trial;
        if (!Less(trial, x, words)) return even;
      }
      last = next;
      bound = &last;
      even = !even;
    }
  }

  // sign * (k + x) * stddev, rounded. With X the first 64 bits of x, and x' in (0, 1) what follows them,
  // (k + x) * mantissa * 2^64 = (k 2^64 + X) * mantissa + x' * mantissa. Only the whole part of the last term can
  // decide the rounding, and for an x' of which nothing is known it is uniform below the mantissa: so it is drawn as
  // such.
  static __int128 Round(int k, Uniform& x, const ScaledDeviation& stddev, RandomWords& words) {
    constexpr int kHeadDigits = 64 / kDigitBits;
    uint64_t head = 0;
    for (int i = 0; i < kHeadDigits; ++i) head = head << kDigitBits | x.Digit(i, words);
    unsigned __int128 tail = words.Below(stddev.mantissa);
    // Digits of x' that comparisons have drawn already, from the last one on.
    for (int i = x.known - 1; i >= kHeadDigits; --i) {
      tail = (static_cast<unsigned __int128>(x.digits[i]) * stddev.mantissa + tail) >> kDigitBits;
    }
    const unsigned __int128 whole = static_cast<unsigned __int128>(k) << 64 | head;
    const unsigned __int128 half = static_cast<unsigned __int128>(1) << (stddev.shift - 1);
    const auto magnitude = static_cast<__int128>((whole * stddev.mantissa + tail + half) >> stddev.shift);
    return words.Take() >> 31 != 0 ? -magnitude : magnitude;
  }
};

}  // namespace weft::privacy

#endif  // WEFT_PRIVACY_NOISE_EXACT_NORMAL_H_
