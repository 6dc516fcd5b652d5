#ifndef WEFT_AGGREGATORS_CORE_SEEDED_NOISE_H_
#define WEFT_AGGREGATORS_CORE_SEEDED_NOISE_H_

namespace weft::aggregators {

// Noise from a seed protects nothing: whoever knows the seed takes it off again. A process accepts jobs that ask for it
// only after it has called AllowSeededNoise, once, before it checks jobs: tests and simulations do, a
// coordinator never does, so that no job can talk it into it.
void AllowSeededNoise();
bool SeededNoiseAllowed();

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_SEEDED_NOISE_H_
