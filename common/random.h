#ifndef WEFT_COMMON_RANDOM_H_
#define WEFT_COMMON_RANDOM_H_

#include <array>
#include <cstdint>
#include <string_view>

namespace weft {

// Counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// The value at a position depends on (seed, stream, position) alone, so any client or thread can draw any part of a
// sequence and all get the same bits. Not for privacy noise: that needs a cryptographic source.
class Philox {
 public:
  // `stream` separates sequences under one seed; StreamId makes one from a name.
  Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  // Four independent 32-bit words at block `counter`. Philox' key is the seed (low word first), its counter words are
  // those of `counter` and then those of the stream.
  std::array<uint32_t, 4> Block(uint64_t counter) const;

  // Next values of the sequence, from position 0 on.
  uint32_t Next();
  // Uniform in [0, 1), 24 bits: every value is a float.
  float NextFloat();
  // Uniform in [0, 1), 53 bits.
  double NextDouble();
  // Standard normal by Box-Muller on two NextDouble.
  double NextNormal();
  // Uniform in [0, bound), unbiased (rejection). bound >= 1.
  uint64_t NextBelow(uint64_t bound);

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
  int used_ = 4;
  std::array<uint32_t, 4> block_{};
};

// 64-bit FNV-1a of a name, for Philox streams.
uint64_t StreamId(std::string_view name);

// Mixes values into one well-spread seed (splitmix64 chain).
uint64_t MixSeed(uint64_t seed, uint64_t value);

}  // namespace weft

#endif  // WEFT_COMMON_RANDOM_H_
