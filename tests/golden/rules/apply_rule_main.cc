// Applies registered rules to made-up updates, for rules_parity.py.
//
//   apply_rule CASES.jsonl FOLDER RESULTS.jsonl OUT.safetensors
//   apply_rule --rules: their names
//
// FOLDER/<case>.safetensors holds the job's adapter and each client's delta, of the roles sent, as "0/<tensor>" and
// "<round>/<client>/<tensor>". OUT gets the state before round 1 and after each round as
// "<case>/<round>/<tensor>", and each update that is not f32 as "<case>/<round>/<client>:bytes" and, decoded,
// "<case>/<round>/<client>/<tensor>".

#include <google/protobuf/util/json_util.h>

#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "adapters/encoding.h"
#include "adapters/factors.h"
#include "adapters/safetensors.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/seeded_noise.h"
#include "common/status_macros.h"
#include "tests/golden/rules/apply_rule.pb.h"

namespace weft {
namespace {

// What is written at the end; owns the values until then.
class Output {
 public:
  void Add(const std::string& prefix, const Adapter& adapter) {
    const Adapter& kept = adapters_.emplace_back(adapter.Clone());
    for (const TensorSpec& spec : kept.layout().tensors()) {
      tensors_.push_back({absl::StrCat(prefix, "/", spec.name), "F32", spec.shape, std::as_bytes(kept.tensor(spec))});
    }
  }
  void Add(const std::string& name, std::span<const std::byte> bytes) {
    const std::vector<std::byte>& kept = bytes_.emplace_back(bytes.begin(), bytes.end());
    tensors_.push_back({name, "U8", {static_cast<int64_t>(kept.size())}, kept});
  }
  absl::Status Write(const std::string& path) const { return WriteSafetensors(path, tensors_); }

 private:
  std::deque<Adapter> adapters_;
  std::deque<std::vector<std::byte>> bytes_;
  std::vector<SafetensorToWrite> tensors_;
};

absl::StatusOr<Adapter> Read(const SafetensorsFile& in, const std::string& prefix,
                             const std::shared_ptr<const Layout>& layout) {
  Adapter adapter(layout);
  for (const TensorSpec& spec : layout->tensors()) {
    WEFT_ASSIGN_OR_RETURN(const SafetensorView view, in.Find(absl::StrCat(prefix, "/", spec.name)));
    const std::span<float> to = adapter.tensor(spec);
    if (view.dtype != "F32" || view.shape != spec.shape) {
      return absl::InvalidArgumentError(absl::StrCat("found another dtype or shape of ", prefix, "/", spec.name));
    }
    std::memcpy(to.data(), view.data.data(), to.size_bytes());
  }
  return adapter;
}

absl::StatusOr<Adapter> RunRound(const aggregators::Rule& rule, const proto::RuleCase& rule_case, int round,
                                 const Adapter& state, const SafetensorsFile& in, proto::RuleResult* result,
                                 Output* out) {
  const proto::JobConfig& job = rule_case.job();
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<aggregators::Aggregator> aggregator,
                        rule.Create(job, {.global = &state, .round = round}));
  proto::Plan* plan = result->add_plans();
  plan->set_round(round);
  plan->set_seed(job.seed());
  *plan->mutable_training() = job.training();
  *plan->mutable_encoding() = job.encoding();
  aggregator->FillPlan(plan);
  for (const proto::RuleClient& client : rule_case.rounds(round - 1).clients()) {
    const std::string name = absl::StrCat(round, "/", client.id());
    WEFT_ASSIGN_OR_RETURN(
        const std::shared_ptr<const Layout> layout,
        SentLayout(state.layout(), {plan->roles_sent().begin(), plan->roles_sent().end()}, client.rank()));
    WEFT_ASSIGN_OR_RETURN(const Adapter delta, Read(in, name, layout));
    WEFT_ASSIGN_OR_RETURN(const EncodedUpdate encoded, EncodedUpdate::Encode(delta, job.encoding()));
    if (encoded.encoding() != Encoding::kF32) {
      out->Add(absl::StrCat(rule_case.id(), "/", name, ":bytes"), encoded.bytes());
      out->Add(absl::StrCat(rule_case.id(), "/", name), encoded.Decode());
    }
    WEFT_RETURN_IF_ERROR(aggregator->Accumulate({client.id(), client.examples(), encoded, client.rank()}));
  }
  return std::move(*aggregator).Finish();
}

absl::Status RunCase(const proto::RuleCase& rule_case, const std::string& folder, proto::RuleResult* result,
                     Output* out) {
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile in,
                        SafetensorsFile::Open(absl::StrCat(folder, "/", rule_case.id(), ".safetensors")));
  const proto::JobConfig& job = rule_case.job();
  WEFT_ASSIGN_OR_RETURN(const aggregators::Rule* rule, aggregators::Registry::Global().Find(job.aggregator().name()));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, Layout::FromProto(rule_case.layout()));
  WEFT_RETURN_IF_ERROR(rule->CheckJob(job, *layout));
  WEFT_ASSIGN_OR_RETURN(Adapter initial, Read(in, "0", layout));
  WEFT_ASSIGN_OR_RETURN(Adapter state, rule->InitialState(job, std::move(initial)));
  for (int round = 0;; ++round) {
    *result->add_states() = state.layout().ToProto();
    out->Add(absl::StrCat(rule_case.id(), "/", round), state);
    if (round == rule_case.rounds_size()) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(state, RunRound(*rule, rule_case, round + 1, state, in, result, out));
  }
}

absl::Status Run(char** paths) {
  std::ifstream cases(paths[1]);
  std::ofstream results(paths[3]);
  Output out;
  for (std::string line; std::getline(cases, line);) {
    proto::RuleCase rule_case;
    if (const auto parsed = google::protobuf::util::JsonStringToMessage(line, &rule_case); !parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(paths[1], ": ", parsed.message().ToString(), " in: ", line));
    }
    proto::RuleResult result;
    result.set_id(rule_case.id());
    if (const absl::Status status = RunCase(rule_case, paths[2], &result, &out); !status.ok()) {
      result.set_error(status.ToString());
    }
    std::string json;
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    if (!google::protobuf::util::MessageToJsonString(result, &json, options).ok()) {
      return absl::InternalError(absl::StrCat("no JSON of the result of ", rule_case.id()));
    }
    results << json << '\n';
  }
  if (!results.flush()) return absl::UnavailableError(absl::StrCat("cannot write ", paths[3]));
  return out.Write(paths[4]);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--rules") {
    for (const std::string& name : weft::aggregators::Registry::Global().Names()) std::cout << name << '\n';
    return 0;
  }
  if (argc != 5) {
    std::cerr << "usage: apply_rule CASES.jsonl FOLDER RESULTS.jsonl OUT.safetensors | --rules\n";
    return 2;
  }
  weft::aggregators::AllowSeededNoise();
  const absl::Status status = weft::Run(argv);
  if (!status.ok()) std::cerr << "apply_rule: " << status << '\n';
  return status.ok() ? 0 : 1;
}
