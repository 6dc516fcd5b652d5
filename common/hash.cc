#include "common/hash.h"

#include <isa-l/crc.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace weft {
namespace {

// OpenSSL fails here only out of memory or misused: nothing a caller could do.
void Check(int result) {
  if (result != 1) std::abort();
}

}  // namespace

struct Sha256::State {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  Check(state_->context != nullptr ? 1 : 0);
  Check(EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(const void* data, size_t size) { Check(EVP_DigestUpdate(state_->context.get(), data, size)); }

std::string Sha256::Finish() {
  std::string digest(32, '\0');
  Check(EVP_DigestFinal_ex(state_->context.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr));
  return digest;
}

std::string Sha256Of(const void* data, size_t size) {
  Sha256 sha;
  sha.Update(data, size);
  return sha.Finish();
}

std::string ToHex(std::string_view raw) { return absl::BytesToHexString(absl::string_view(raw.data(), raw.size())); }

uint32_t Crc32c(const void* data, size_t size) {
  // ISA-L takes an int length, neither writes the buffer nor inverts the sum, as RFC 3720 does at both ends.
  constexpr size_t kMostAtOnce = size_t{1} << 30;
  auto* at = const_cast<unsigned char*>(static_cast<const unsigned char*>(data));
  uint32_t crc = 0xFFFFFFFF;
  while (size > 0) {
    const size_t part = std::min(size, kMostAtOnce);
    crc = crc32_iscsi(at, static_cast<int>(part), crc);
    at += part;
    size -= part;
  }
  return ~crc;
}

}  // namespace weft
