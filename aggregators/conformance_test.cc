// Runs the laws over whatever is linked into //aggregators:all, so that no rule can be added without them.
#include "aggregators/core/conformance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/registry.h"

namespace weft::aggregators {
namespace {

TEST(AllRulesTest, Conformance_EveryRegisteredRuleKeepsTheLaws) {
  const Registry& registry = Registry::Global();
  ASSERT_THAT(registry.Names(), ::testing::Contains("fedavg")) << "the registry must not be empty by a linking mistake";
  for (const std::string& name : registry.Names()) {
    conformance::Subject subject = conformance::SmallSubject(*registry.Find(name));
    for (const proto::EncodingConfig& encoding : conformance::Encodings()) {
      subject.encoding = encoding;
      conformance::ExpectLawsHold(subject);
    }
  }
}

}  // namespace
}  // namespace weft::aggregators
