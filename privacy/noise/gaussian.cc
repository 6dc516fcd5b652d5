#include "privacy/noise/gaussian.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace weft::privacy {
namespace {

// 256 KiB: large enough that what a refill throws away (under RandomWords::kWordsPerDraw) and its call cost little.
constexpr size_t kBufferWords = size_t{1} << 16;

}  // namespace

NoiseSource::NoiseSource() : buffer_(kBufferWords) {}

absl::Status NoiseSource::Fill(double stddev, std::span<__int128> out) {
  std::fill(out.begin(), out.end(), 0);
  if (!(stddev >= kLeastDeviation && stddev <= kLargestDeviation)) {
    return absl::InvalidArgumentError(absl::StrCat("found a noise standard deviation of ", stddev,
                                                   ", expected one from 2^-40 to 2^40; ",
                                                   "it is noise multiplier times clip, see both"));
  }
  const ScaledDeviation scaled = ScaledDeviation::Of(stddev);
  for (__int128& value : out) {
    if (words_.left() < RandomWords::kWordsPerDraw) {
      if (absl::Status status = FillWords(buffer_); !status.ok()) {
        words_ = RandomWords();
        std::fill(out.begin(), out.end(), 0);
        return status;
      }
      words_ = RandomWords(buffer_.data(), buffer_.data() + buffer_.size());
    }
    value = ExactNormal<32>::Draw(scaled, words_);
  }
  return absl::OkStatus();
}

SecureNoise::SecureNoise() : SecureNoise(RAND_priv_bytes) {}

SecureNoise::~SecureNoise() { OPENSSL_cleanse(buffer().data(), buffer().size() * sizeof(uint32_t)); }

absl::Status SecureNoise::FillWords(std::span<uint32_t> words) {
  const int size = static_cast<int>(words.size_bytes());
  if (random_bytes_(reinterpret_cast<unsigned char*>(words.data()), size) == 1) return absl::OkStatus();
  char reason[256];
  ERR_error_string_n(ERR_get_error(), reason, sizeof(reason));
  return absl::UnavailableError(
      absl::StrCat("OpenSSL's generator gave no random bytes (", reason,
                   "), so no noise was made and nothing may be released; see the system's entropy"));
}

absl::Status SeededNoise::FillWords(std::span<uint32_t> words) {
  for (uint32_t& word : words) word = philox_.Next();
  return absl::OkStatus();
}

}  // namespace weft::privacy
