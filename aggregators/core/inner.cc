#include "aggregators/core/inner.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "aggregators/core/registry.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

bool Fits(const Facts& facts, Need need) {
  return need == Need::kCentralDp ? facts.works_under_central_dp && facts.finishes_from_mean : facts.finishes_from_mean;
}

std::string Reason(const Facts& facts, Need need) {
  if (facts.changes_base) return "it changes the base of the clients, so that there is no mean delta to work on";
  if (facts.needs_products) return "it needs the products of each client's factors, not only a mean of deltas";
  if (facts.needs_single_updates) {
    return need == Need::kCentralDp
               ? "it selects or sorts single updates, so that one client's influence is not bounded by a clipped sum"
               : "it needs single updates, not only a mean of deltas";
  }
  return need == Need::kCentralDp ? "it is not post-processing of a mean of deltas" : "it has no finish from a mean";
}

}  // namespace

absl::StatusOr<Inner> FindInner(const proto::JobConfig& job, const proto::InnerRuleConfig& config,
                                std::string_view wrapper, Need need) {
  const Registry& registry = Registry::Global();
  Inner inner;
  const absl::StatusOr<const Rule*> found = registry.Find(config.name());
  if (!found.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("aggregator.config.rule.name: ", found.status().message()));
  }
  inner.rule = *found;
  if (!Fits(inner.rule->facts(), need)) {
    std::vector<std::string> fitting;
    for (const std::string& name : registry.Names()) {
      if (Fits((*registry.Find(name))->facts(), need)) fitting.push_back(name);
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "aggregator.config.rule: found ", config.name(), " inside ", std::string(wrapper),
        ", which can't be: ", Reason(inner.rule->facts(), need), "; use one of ", absl::StrJoin(fitting, ", ")));
  }
  inner.job = job;
  inner.job.mutable_aggregator()->set_name(config.name());
  *inner.job.mutable_aggregator()->mutable_config() = config.config();
  return inner;
}

std::string InnerText(const proto::InnerRuleConfig& config) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream out(&stream);
  out.SetSerializationDeterministic(true);  // the keys of a Struct come in any order elsewhere
  config.SerializeToCodedStream(&out);
  out.Trim();
  return absl::StrCat(config.name(), " ", ToHex(Sha256Of(bytes)));
}

}  // namespace weft::aggregators
