#include "common/random.h"

#include <cmath>
#include <numbers>

namespace weft {
namespace {

// One step of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
uint64_t SplitMix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint32_t Low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t High(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

}  // namespace

std::array<uint32_t, 4> Philox::Block(uint64_t counter) const {
  std::array<uint32_t, 4> x = {Low(counter), High(counter), Low(stream_), High(stream_)};
  uint32_t key0 = Low(seed_);
  uint32_t key1 = High(seed_);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * x[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * x[2];
    x = {High(product1) ^ x[1] ^ key0, Low(product1), High(product0) ^ x[3] ^ key1, Low(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return x;
}

uint32_t Philox::Next() {
  if (used_ == 4) {
    block_ = Block(counter_++);
    used_ = 0;
  }
  return block_[static_cast<size_t>(used_++)];
}

float Philox::NextFloat() { return static_cast<float>(Next() >> 8) * 0x1p-24f; }

double Philox::NextDouble() {
  const uint64_t high = Next() >> 5;
  const uint64_t low = Next() >> 6;
  return static_cast<double>(high << 26 | low) * 0x1p-53;
}

double Philox::NextNormal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - NextDouble()));  // 1 - u lies in (0, 1]
  return radius * std::cos(2.0 * std::numbers::pi * NextDouble());
}

uint64_t Philox::NextBelow(uint64_t bound) {
  const uint64_t rest = -bound % bound;  // 2^64 mod bound: so many draws at the bottom would favour small values
  while (true) {
    const uint64_t high = Next();
    const uint64_t draw = high << 32 | Next();
    if (draw >= rest) return draw % bound;
  }
}

uint64_t StreamId(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

uint64_t MixSeed(uint64_t seed, uint64_t value) { return SplitMix(SplitMix(seed) + value); }

}  // namespace weft
