#include "aggregators/core/seeded_noise.h"

#include <atomic>

namespace weft::aggregators {
namespace {

std::atomic<bool> allowed = false;

}  // namespace

void AllowSeededNoise() { allowed = true; }

bool SeededNoiseAllowed() { return allowed; }

}  // namespace weft::aggregators
