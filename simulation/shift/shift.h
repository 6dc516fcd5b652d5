#ifndef WEFT_SIMULATION_SHIFT_SHIFT_H_
#define WEFT_SIMULATION_SHIFT_SHIFT_H_

#include <cstdint>
#include <span>

#include "proto/scenario.pb.h"

namespace weft::simulation {

struct ImageSize {
  int64_t channels = 1, height = 1, width = 1;
  int64_t elements() const { return channels * height * width; }
};

// What a client with this shift sees of an image: `from` and `to` are [channels, height, width]. `seed` is of the
// image; noise alone depends on it.
//   rotate   counter-clockwise about the centre, bilinear; beyond the border the nearest pixel of it
//   blur     Gaussian, cut off at three standard deviations, beyond the border mirrored
//   invert   255 - value
//   mirror   left to right
//   noise    plus a normal deviate, cut to 0 to 255
void ShiftImage(const proto::ShiftConfig& shift, const ImageSize& size, uint64_t seed, std::span<const uint8_t> from,
                std::span<uint8_t> to);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_SHIFT_SHIFT_H_
