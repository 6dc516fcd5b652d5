#ifndef WEFT_AGGREGATORS_CORE_CONFORMANCE_H_
#define WEFT_AGGREGATORS_CORE_CONFORMANCE_H_

// The laws every rule keeps, as functions: a rule's test calls ExpectLawsHold with a small job and layout, and
// //aggregators:conformance_test does so for every registered rule, so that none escapes. Testonly.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "adapters/layout.h"
#include "aggregators/core/aggregator.h"
#include "proto/job.pb.h"

namespace weft::aggregators::conformance {

// What the laws are checked on.
struct Subject {
  const Rule* rule = nullptr;
  proto::JobConfig job;                   // passes the rule's CheckJob
  std::shared_ptr<const Layout> layout;   // of the job's adapter; small, for every bit of a saved state is flipped
  proto::EncodingConfig encoding;         // of the updates
  std::optional<proto::JobConfig> other;  // the same rule under another config: its state and parts must be refused
};

// A job that names `rule` with an empty config, and tensors of roles lora_a, lora_b and head. Rules that can't do
// without a config have their own subject.
Subject SmallSubject(const Rule* rule);

struct Law {
  std::string_view name;
  // OK, or what was found where the law says otherwise.
  absl::Status (*check)(const Subject&);
};

// Updates the laws fold hold any finite values of magnitude below 2^16 (denormals, -0.0 and cancelling ones among
// them).
//   PlanIsFilled          roles trained and sent are the state's, once each, in layout order, with a bound on examples;
//                         what is not the rule's to set is untouched
//   AnyArrivalOrder       the same bits from every order and grouping, and finite ones; the job's tensors come first
//   AnySplit              the same bits from any split into parts that are folded by threads and merged in any tree
//   SaveRestoreMidway     the same bits after Save and Restore into a fresh or a used object at any point
//   DamagedStateRefused   truncated, lengthened and bit-flipped states are DATA_LOSS and leave no trace
//   ForeignStateRefused   state and parts of another rule, layout, round or config likewise (parts: INVALID_ARGUMENT)
//   RefusalLeavesNoTrace  NaN, Inf, another layout, zero and absurd examples are refused naming tensor or field;
//                         Validate and Accumulate agree and the state's bytes stay the same
//   BoundIsKept           more examples than the plan's bound count as the bound
//   OwnUpdateBack         where Facts::returns_single_update says so
//   EmptyFinishRefused    Finish before any update is FAILED_PRECONDITION, also after merges and restores of nothing;
//                         where Facts::finishes_empty says so, it gives a finite state and the same bits each time
std::span<const Law> Laws();

// Every encoding of updates.
std::vector<proto::EncodingConfig> Encodings();

// A test failure for every law that does not hold, with the rule's and the law's name.
void ExpectLawsHold(const Subject& subject);

}  // namespace weft::aggregators::conformance

#endif  // WEFT_AGGREGATORS_CORE_CONFORMANCE_H_
