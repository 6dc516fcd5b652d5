#include "aggregators/core/conformance_cohort.h"

#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft::aggregators::conformance {
namespace {

using Limits = std::numeric_limits<float>;

// One generator per cohort; `value` draws an element from it.
template <typename Value>
Cohort Make(const std::string& name, const proto::EncodingConfig& encoding, const std::shared_ptr<const Layout>& layout,
            std::vector<uint64_t> examples, Value value) {
  Philox random(7, StreamId(name));
  Cohort cohort{name, {}};
  for (size_t k = 0; k < examples.size(); ++k) {
    Adapter adapter(layout);
    for (float& x : adapter.values()) x = value(random, k);
    cohort.updates.push_back(
        {absl::StrCat("client-", k), examples[k], *EncodedUpdate::Encode(adapter, encoding), nullptr});
  }
  return cohort;
}

float Pick(Philox& random, const std::vector<float>& values) { return values[random.NextBelow(values.size())]; }

}  // namespace

Sent Sent::Unchecked(std::string client_id, uint64_t examples, Adapter delta) {
  auto viewed = std::make_shared<const Adapter>(std::move(delta));
  EncodedUpdate view = EncodedUpdate::View(*viewed);
  return {std::move(client_id), examples, std::move(view), std::move(viewed)};
}

Bench::Bench(const Subject& subject) : subject_(subject), global_(subject.layout) {
  Philox random(3, StreamId("global"));
  for (float& x : global_.values()) x = random.NextFloat() - 0.5f;
}

absl::StatusOr<std::unique_ptr<Bench>> Bench::Create(const Subject& subject) {
  if (absl::Status fits = subject.rule->CheckJob(subject.job, *subject.layout); !fits.ok()) {
    return absl::Status(fits.code(), absl::StrCat("the rule refuses the subject's own job: ", fits.message()));
  }
  std::unique_ptr<Bench> bench(new Bench(subject));
  WEFT_ASSIGN_OR_RETURN(bench->global_, subject.rule->InitialState(subject.job, std::move(bench->global_)));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Aggregator> aggregator, bench->Fresh());
  proto::Plan plan;
  aggregator->FillPlan(&plan);
  WEFT_ASSIGN_OR_RETURN(bench->update_layout_,
                        SentLayout(bench->global_.layout(), {plan.roles_sent().begin(), plan.roles_sent().end()}, 0));
  bench->max_examples_ = plan.max_examples();
  return bench;
}

absl::StatusOr<std::unique_ptr<Aggregator>> Bench::Fresh() const {
  return subject_.rule->Create(subject_.job, {.global = &global_, .round = 1});
}

absl::StatusOr<std::unique_ptr<Aggregator>> Bench::Folded(const Cohort& cohort,
                                                          const std::vector<size_t>& indices) const {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, Fresh());
  for (const size_t i : indices) WEFT_RETURN_IF_ERROR(aggregator->Accumulate(cohort.updates[i].View()));
  return aggregator;
}

absl::StatusOr<std::unique_ptr<Aggregator>> Bench::FoldedTogether(const Cohort& cohort,
                                                                  const std::vector<size_t>& indices) const {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, Fresh());
  std::vector<ClientUpdate> updates;
  for (const size_t i : indices) updates.push_back(cohort.updates[i].View());
  WEFT_RETURN_IF_ERROR(aggregator->Accumulate(updates));
  return aggregator;
}

Cohort Bench::Ordinary() const {
  return Make("ordinary", subject_.encoding, update_layout_, {10, 3, 250, 1, 77, 31},
              [](Philox& random, size_t) { return random.NextFloat() - 0.5f; });
}

std::vector<Cohort> Bench::Cohorts() const {
  std::vector<Cohort> cohorts;
  cohorts.push_back(Ordinary());
  cohorts.push_back(Make("denormal", subject_.encoding, update_layout_, {1, 3, 1000, 7}, [](Philox& random, size_t) {
    return Pick(random, {0.0f, -0.0f, Limits::denorm_min(), -Limits::denorm_min(), Limits::min(), 0x1p-64f, 0x1.8p-65f,
                         -0x1.000002p-50f, 0x1p-41f});
  }));
  // Huge values of both signs with small ones between: a float sum loses the small ones in some orders.
  cohorts.push_back(
      Make("cancelling", subject_.encoding, update_layout_, {9, 9, 2, 9, 9, 3}, [](Philox& random, size_t k) {
        const float small = random.NextFloat() - 0.5f;
        const float huge[] = {0x1.8p15f, -0x1.8p15f, small, 0x1.fffffep14f, -0x1.fffffep14f, small * 0x1p-30f};
        return huge[k];
      }));
  cohorts.push_back(Make("near_the_limit", subject_.encoding, update_layout_, {1, 10'000'000, 4, 10'000'000},
                         [](Philox& random, size_t) {
                           return Pick(random, {0x1.fcp15f, -0x1.fcp15f, 0x1.f8p15f, 1.0f});
                         }));
  cohorts.push_back(Make("unequal_weights", subject_.encoding, update_layout_, {1, 10'000'000, 2, 9'999'999, 1},
                         [](Philox& random, size_t) {
                           return (random.NextFloat() - 0.5f) * Pick(random, {0x1p-20f, 1.0f, 0x1p12f});
                         }));
  return cohorts;
}

Sent Bench::With(float value, size_t index, uint64_t examples) const {
  Adapter delta(update_layout_);
  for (float& x : delta.values()) x = 0.25f;
  delta.values()[index] = value;
  return Sent::Unchecked("client-x", examples, std::move(delta));
}

std::shared_ptr<const Layout> Renamed(const Layout& layout) {
  std::vector<TensorSpec> tensors = layout.tensors();
  for (TensorSpec& tensor : tensors) tensor.name = "renamed." + tensor.name;  // pairs of factors stay pairs
  return *Layout::Create(std::move(tensors));
}

std::vector<size_t> InOrder(size_t size) {
  std::vector<size_t> indices(size);
  std::iota(indices.begin(), indices.end(), size_t{0});
  return indices;
}

absl::StatusOr<std::string> FinishBytes(std::unique_ptr<Aggregator> aggregator) {
  WEFT_ASSIGN_OR_RETURN(const Adapter adapter, std::move(*aggregator).Finish());
  const std::span<const std::byte> bytes = adapter.bytes();
  return adapter.layout().hash() + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace weft::aggregators::conformance
