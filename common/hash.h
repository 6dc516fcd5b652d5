#ifndef WEFT_COMMON_HASH_H_
#define WEFT_COMMON_HASH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft {

// Incremental SHA-256 (OpenSSL). Use once: Update any number of times, then Finish.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(const void* data, size_t size);
  void Update(std::string_view text) { Update(text.data(), text.size()); }
  // 32 raw bytes.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 32 raw bytes.
std::string Sha256Of(const void* data, size_t size);
inline std::string Sha256Of(std::string_view text) { return Sha256Of(text.data(), text.size()); }

// Lower-case hex.
std::string ToHex(std::string_view raw);

// CRC32C (Castagnoli), as in RFC 3720: Crc32c("123456789") == 0xE3069283.
uint32_t Crc32c(const void* data, size_t size);

}  // namespace weft

#endif  // WEFT_COMMON_HASH_H_
