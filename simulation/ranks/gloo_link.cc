#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/GlooDeviceFactory.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "simulation/ranks/link.h"

namespace weft::simulation {
namespace {

constexpr std::chrono::minutes kTimeToMeet{5};
// A rank may have nothing to do for as long as an evaluation takes. Who is gone is noticed at once all the same.
constexpr std::chrono::hours kLongestSilence{24 * 7};
// Of one message of Gloo.
constexpr size_t kLargestPiece = size_t{1} << 28;
// Both ranks meet for each piece, so the first is of fixed size and holds all of a small message: its length as a u64,
// then its bytes.
constexpr size_t kFirstPiece = 4096, kFirstBytes = kFirstPiece - sizeof(uint64_t);

std::string Variable(const char* name, const char* other = nullptr) {
  const char* value = std::getenv(name);
  if (value == nullptr && other != nullptr) value = std::getenv(other);
  return value == nullptr ? "" : value;
}

absl::StatusOr<int> Number(const char* name, const char* other, int least) {
  const std::string text = Variable(name, other);
  int value = 0;
  if (absl::SimpleAtoi(text, &value) && value >= least) return value;
  return absl::InvalidArgumentError(absl::StrCat(name, ": found \"", text, "\", expected a number of at least ", least,
                                                 "; start all ranks by torchrun or set it"));
}

std::string FirstLine(const std::exception& error) {
  const std::string what = error.what();
  return what.substr(0, what.find('\n'));
}

class GlooLink final : public Link {
 public:
  explicit GlooLink(c10::intrusive_ptr<c10d::ProcessGroupGloo> group) : group_(std::move(group)) {}

  int rank() const override { return group_->getRank(); }
  int ranks() const override { return group_->getSize(); }

  absl::Status Send(int to, std::string_view bytes) override {
    return Try(to, [&] {
      const uint64_t size = bytes.size();
      std::memcpy(first_.data(), &size, sizeof(size));
      std::memcpy(first_.data() + sizeof(size), bytes.data(), std::min(kFirstBytes, bytes.size()));
      Wait(group_->send(Piece(first_.data(), kFirstPiece), to, 0));
      // Gloo's tensors are not const.
      char* data = const_cast<char*>(bytes.data());
      for (size_t at = kFirstBytes; at < bytes.size(); at += kLargestPiece) {
        Wait(group_->send(Piece(data + at, std::min(kLargestPiece, bytes.size() - at)), to, 0));
      }
    });
  }

  absl::StatusOr<std::string> Receive(int from) override {
    std::string bytes;
    WEFT_RETURN_IF_ERROR(Try(from, [&] {
      Wait(group_->recv(Piece(first_.data(), kFirstPiece), from, 0));
      uint64_t size = 0;
      std::memcpy(&size, first_.data(), sizeof(size));
      bytes.resize(size);
      std::memcpy(bytes.data(), first_.data() + sizeof(size), std::min(kFirstBytes, bytes.size()));
      for (size_t at = kFirstBytes; at < bytes.size(); at += kLargestPiece) {
        Wait(group_->recv(Piece(bytes.data() + at, std::min(kLargestPiece, bytes.size() - at)), from, 0));
      }
    }));
    return bytes;
  }

 private:
  std::vector<at::Tensor>& Piece(char* data, size_t bytes) {
    piece_.assign(1, at::from_blob(data, {static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte)));
    return piece_;
  }
  static void Wait(const c10::intrusive_ptr<c10d::Work>& work) { work->wait(); }

  template <typename F>
  static absl::Status Try(int other, const F& act) {
    try {
      act();
    } catch (const std::exception& error) {
      return absl::UnavailableError(absl::StrCat("rank ", other, " has gone (", FirstLine(error),
                                                 "); start all ranks again, and the run goes on from its last round"));
    }
    return absl::OkStatus();
  }

  const c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::array<char, kFirstPiece> first_{};
  std::vector<at::Tensor> piece_;  // of the send or receive under way
};

}  // namespace

absl::StatusOr<std::unique_ptr<Link>> LinkFromEnvironment() {
  if (Variable("WORLD_SIZE", "SLURM_NTASKS").empty()) return nullptr;
  WEFT_ASSIGN_OR_RETURN(const int ranks, Number("WORLD_SIZE", "SLURM_NTASKS", 1));
  if (ranks == 1) return nullptr;
  WEFT_ASSIGN_OR_RETURN(const int rank, Number("RANK", "SLURM_PROCID", 0));
  if (rank >= ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("RANK: found ", rank, ", expected less than WORLD_SIZE, which is ", ranks));
  }
  const std::string address = Variable("MASTER_ADDR");
  if (address.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("MASTER_ADDR: found none, expected the address of rank 0, as there are ", ranks, " ranks"));
  }
  c10d::TCPStoreOptions options;
  if (!Variable("MASTER_PORT").empty()) {
    WEFT_ASSIGN_OR_RETURN(const int port, Number("MASTER_PORT", nullptr, 1));
    if (port > std::numeric_limits<std::uint16_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat("MASTER_PORT: found ", port, ", expected at most 65535"));
    }
    options.port = static_cast<std::uint16_t>(port);
  }
  // torchrun keeps a store there already.
  const bool kept = Variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  options.isServer = rank == 0 && !kept;
  options.numWorkers = static_cast<std::size_t>(ranks);
  options.waitWorkers = false;
  options.timeout = kTimeToMeet;
  try {
    auto store = c10::make_intrusive<c10d::TCPStore>(address, options);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(
        absl::StrCat("weft-sim/", Variable("TORCHELASTIC_RESTART_COUNT")), std::move(store));
    auto gloo = c10d::ProcessGroupGloo::Options::create(kLongestSilence);
    const std::string interface = Variable("GLOO_SOCKET_IFNAME");
    gloo->devices.push_back(interface.empty() ? c10d::ProcessGroupGloo::createDefaultDevice()
                                              : c10d::ProcessGroupGloo::createDeviceForInterface(interface));
    return std::make_unique<GlooLink>(
        c10::make_intrusive<c10d::ProcessGroupGloo>(std::move(prefixed), rank, ranks, std::move(gloo)));
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("rank ", rank, " of ", ranks, " can't reach the others by ", address,
                                               ":", options.port, ": ", FirstLine(error),
                                               "; start all ranks, and see that nothing else listens there"));
  }
}

}  // namespace weft::simulation
