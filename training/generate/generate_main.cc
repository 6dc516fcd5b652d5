// weft-generate: text from a language model with an adapter, as token numbers. `weft generate` puts a tokenizer around
// it.
//   weft-generate --base DIR [--adapter DIR] [--max-new-tokens N] [--stop ID]... [--device auto] [--threads 0]
//   [--compute f32]
// Each line of stdin is a prompt, token numbers with spaces between; each line of stdout the tokens that follow,
// written as they come.

#include <ATen/Parallel.h>

#include <cstdio>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/exit_code.h"
#include "common/status_macros.h"
#include "training/generate/generator.h"
#include "training/torch_errors.h"

namespace weft {
namespace {

struct Flags {
  Generator::Options model;
  int64_t most = 64;
  int threads = 0;
  std::vector<int32_t> stop;
};

absl::StatusOr<std::vector<int32_t>> Tokens(const std::string& line) {
  std::istringstream words(line);
  std::vector<int32_t> tokens;
  for (int32_t token = 0; words >> token;) tokens.push_back(token);
  if (words.eof()) return tokens;
  return absl::InvalidArgumentError(absl::StrCat("found \"", line, "\", expected token numbers with spaces between"));
}

absl::Status Run(const Flags& flags) {
  if (flags.threads > 0) at::set_num_threads(flags.threads);
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator, Generator::Create(flags.model));
  const std::set<int32_t> stop(flags.stop.begin(), flags.stop.end());
  for (std::string line; std::getline(std::cin, line);) {
    WEFT_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, Tokens(line));
    const char* between = "";
    const auto generated = generator->Generate(prompt, flags.most, stop, [&](int32_t token) {
      std::cout << between << token << std::flush;
      between = " ";
      return static_cast<bool>(std::cout);
    });
    WEFT_RETURN_IF_ERROR(generated.status());
    std::cout << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  weft::Flags flags;
  CLI::App app("Text from a language model with an adapter, as token numbers: a prompt on each line of stdin.",
               "weft-generate");
  app.add_option("--base", flags.model.base, "Hugging Face folder of the base")->required();
  app.add_option("--adapter", flags.model.adapter, "PEFT folder; none: the base alone");
  app.add_option("--max-new-tokens", flags.most)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--stop", flags.stop, "token that ends a text (may be repeated)");
  app.add_option("--device", flags.model.device, "auto, cpu or cuda")->capture_default_str();
  app.add_option("--compute", flags.model.compute, "f32 or bf16")->capture_default_str();
  app.add_option("--threads", flags.threads, "CPU threads; 0: all cores")->check(CLI::NonNegativeNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? app.exit(error) : (app.exit(error), weft::kExitUsage);
  }
  const absl::Status status = weft::CatchTorch([&] { return weft::Run(flags); });
  if (status.ok()) return weft::kExitOk;
  std::fprintf(stderr, "%s\n", weft::ErrorLine("weft-generate", status).c_str());
  return weft::ExitCodeFor(status);
}
