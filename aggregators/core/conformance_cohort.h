#ifndef WEFT_AGGREGATORS_CORE_CONFORMANCE_COHORT_H_
#define WEFT_AGGREGATORS_CORE_CONFORMANCE_COHORT_H_

// Cohorts of made-up updates for the conformance laws, and the few steps all laws are made of. Testonly.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "aggregators/core/conformance.h"

namespace weft::aggregators::conformance {

// An update that owns its tensors.
struct Sent {
  std::string client_id;
  uint64_t examples;
  EncodedUpdate tensors;
  std::shared_ptr<const Adapter> viewed;  // what `tensors` refers to, if it is a view

  // Of values that no encoder lets pass.
  static Sent Unchecked(std::string client_id, uint64_t examples, Adapter delta);
  ClientUpdate View() const { return {client_id, examples, tensors}; }
};

struct Cohort {
  std::string name;
  std::vector<Sent> updates;
};

// A round of the subject's job: the adapter it starts from, the plan and the layout of the updates it asks for.
class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Create(const Subject& subject);

  // A fresh aggregator of the subject's job and round 1.
  absl::StatusOr<std::unique_ptr<Aggregator>> Fresh() const;
  // ... that has folded the updates at `indices`.
  absl::StatusOr<std::unique_ptr<Aggregator>> Folded(const Cohort& cohort, const std::vector<size_t>& indices) const;

  // ... that has folded them in one call.
  absl::StatusOr<std::unique_ptr<Aggregator>> FoldedTogether(const Cohort& cohort,
                                                             const std::vector<size_t>& indices) const;

  // In the subject's encoding: ordinary, denormal, cancelling, near the limit and of very unequal weights.
  std::vector<Cohort> Cohorts() const;
  Cohort Ordinary() const;
  // An f32 update with `value` at element `index` and small values elsewhere; unchecked.
  Sent With(float value, size_t index, uint64_t examples = 5) const;

  const Adapter& global() const { return global_; }
  const std::shared_ptr<const Layout>& update_layout() const { return update_layout_; }
  uint64_t max_examples() const { return max_examples_; }

 private:
  explicit Bench(const Subject& subject);
  const Subject& subject_;
  Adapter global_;  // the state of the round
  std::shared_ptr<const Layout> update_layout_;
  uint64_t max_examples_ = 0;
};

// The layout with its tensors under other names: as large, and another one.
std::shared_ptr<const Layout> Renamed(const Layout& layout);
// 0, 1, ..., size - 1.
std::vector<size_t> InOrder(size_t size);
// Layout and values of Finish as bytes.
absl::StatusOr<std::string> FinishBytes(std::unique_ptr<Aggregator> aggregator);

}  // namespace weft::aggregators::conformance

#endif  // WEFT_AGGREGATORS_CORE_CONFORMANCE_COHORT_H_
