// weft-client-fake: the client daemon with a trainer that needs no torch, for tests that run whole processes.
//
// WEFT_FAKE_HOLD=<folder>: training of the round whose number is in the file <folder>/<client id> stands still while
// that file exists; <folder>/<client id>.held is made once it does. WEFT_FAKE_FAULT=nan: trained adapters hold a NaN.
// WEFT_FAKE_FAULT=error: training fails.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/client_app.h"
#include "client/testing/fake_trainer.h"

namespace weft {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool Hold(const std::filesystem::path& folder, const std::string& client_id, int64_t round) {
  std::ifstream file(folder / client_id);
  int64_t held_round = 0;
  if (!(file >> held_round) || held_round != round) return false;
  std::ofstream(folder / absl::StrCat(client_id, ".held")).put('\n');
  return true;
}

absl::StatusOr<std::unique_ptr<Trainer>> CreateFakeTrainer(const TrainerOptions& options) {
  if (options.device == "cuda") {
    return absl::FailedPreconditionError("device: found cuda, but this trainer has none; use auto or cpu");
  }
  FakeTrainer::Options fake;
  fake.base = options.base;
  if (const std::string folder = Environment("WEFT_FAKE_HOLD"); !folder.empty()) {
    fake.hold = [folder](const std::string& client_id, int64_t round) { return Hold(folder, client_id, round); };
  }
  const std::string fault = Environment("WEFT_FAKE_FAULT");
  fake.nan = fault == "nan";
  if (fault == "error") fake.train_status = absl::OutOfRangeError("the loss is NaN at step 1; lower the learning rate");
  return FakeTrainer::Create(fake);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) { return weft::ClientMain(argc, argv, weft::CreateFakeTrainer); }
