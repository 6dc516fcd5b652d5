#ifndef WEFT_PRIVACY_NOISE_GAUSSIAN_H_
#define WEFT_PRIVACY_NOISE_GAUSSIAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/random.h"
#include "privacy/noise/exact_normal.h"

namespace weft::privacy {

// Gaussian noise for exact sums, whose elements are integers in units of 2^-64.
//
// What is guaranteed: given uniform random bits, each element of Fill is an independent N(0, stddev^2), rounded to the
// nearest multiple of 2^-64: exactly, with a statistical distance of zero (exact_normal.h). A sum of clipped updates
// that is itself an integer in these units is not rounded again when the noise is added: S + round(N) = round(S + N).
// So what is released is post-processing of the continuous Gaussian mechanism, and the accountant of the
// (Poisson-sampled) Gaussian mechanism holds as it stands; division and rounding to fp32 afterwards change nothing
// about that. The known leak of floating-point samplers, whose outputs have gaps that depend on the true value
// (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012), does not arise, as
// every multiple of 2^-64 can come out.
//
// What is not: the time that a draw takes depends on its value, so draws should not be timed by those who read the
// result. Noise is a secret: whoever knows it knows the sum. It is neither logged nor stored.
//
// Values depend on the source alone, not on how calls split them. Not thread-safe: one source for each thread.
class NoiseSource {
 public:
  static constexpr double kLeastDeviation = 0x1p-40;
  static constexpr double kLargestDeviation = 0x1p40;

  NoiseSource(const NoiseSource&) = delete;  // a copy would make the same noise again
  NoiseSource& operator=(const NoiseSource&) = delete;
  virtual ~NoiseSource() = default;
  // True when noise from here protects anything: a production job refuses a source that is not.
  virtual bool is_secure() const = 0;

  // Fills `out` with noise in units of 2^-64. INVALID_ARGUMENT: a stddev outside [2^-40, 2^40]; otherwise the error of
  // the source of random bits. On error `out` is all zeros and must not be used: there is no noise in it.
  absl::Status Fill(double stddev, std::span<__int128> out);

 protected:
  NoiseSource();
  // Fills `words` with independent uniform bits.
  virtual absl::Status FillWords(std::span<uint32_t> words) = 0;
  std::vector<uint32_t>& buffer() { return buffer_; }

 private:
  std::vector<uint32_t> buffer_;
  RandomWords words_;  // of buffer_, what is not used yet
};

// From OpenSSL's generator for secret values (RAND_priv_bytes: AES-256 in counter mode, seeded by the kernel).
class SecureNoise : public NoiseSource {
 public:
  // As RAND_priv_bytes: 1 when all bytes were written.
  using RandomBytes = int (*)(unsigned char* bytes, int size);

  SecureNoise();
  // Tests put a failing one in its place.
  explicit SecureNoise(RandomBytes random_bytes) : random_bytes_(random_bytes) {}
  // Wipes the random bits that are left.
  ~SecureNoise() override;
  bool is_secure() const override { return true; }

 private:
  absl::Status FillWords(std::span<uint32_t> words) override;
  RandomBytes random_bytes_;
};

// The same distribution from Philox, for tests and experiments: who knows the seed can take the noise off again.
class SeededNoise : public NoiseSource {
 public:
  SeededNoise(uint64_t seed, uint64_t stream) : philox_(seed, stream) {}
  bool is_secure() const override { return false; }

 private:
  absl::Status FillWords(std::span<uint32_t> words) override;
  Philox philox_;
};

}  // namespace weft::privacy

#endif  // WEFT_PRIVACY_NOISE_GAUSSIAN_H_
