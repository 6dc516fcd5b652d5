#include "training/forms/prompt/prompt.h"

#include <ATen/TensorOperators.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "adapters/forms/prompt/prompt.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "training/forms/member_dropout.h"
#include "training/forms/member_tensors.h"

namespace weft {
namespace {

constexpr char kFirst[] = "prompt_embeddings";      // [tokens, hidden]
constexpr char kDeep[] = "deep_prompt_embeddings";  // [layers - 1, tokens, hidden]

class Prompts : public PromptAdapter {
 public:
  Prompts(std::vector<MemberTensor> first, std::vector<MemberTensor> deep, double dropout)
      : first_(std::move(first)), deep_(std::move(deep)), dropout_(kFirst, dropout) {}

  int64_t tokens() const override { return first_.front().value.size(0); }
  bool replaces(int64_t layer) const override { return layer > 0 && !deep_.empty(); }

  at::Tensor Prompt(int64_t layer, int64_t member, const PassRandom* random) const override {
    const at::Tensor value = layer == 0 ? first_[member].value : deep_[member].value.select(0, layer - 1);
    if (random == nullptr || dropout_.rate() == 0) return value;
    return value * dropout_.Factors(member, *random, layer * tokens(), tokens(), value.size(1)).to(value.device());
  }

 private:
  const std::vector<MemberTensor> first_, deep_;
  const MemberDropout dropout_;  // a layer's tokens are rows behind those of the layers before
};

class TorchPrompt : public TorchForm {
 public:
  TorchPrompt(std::unique_ptr<Form> form, proto::PromptConfig config)
      : form_(std::move(form)), config_(std::move(config)) {}

  int64_t prompt_tokens() const override { return config_.tokens(); }

  absl::StatusOr<AttachedForm> Attach(const BaseDescription& base,
                                      std::span<const MemberTensors> members) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<TensorSpec> specs, form_->Tensors(base));
    std::map<std::string, std::vector<MemberTensor>> found;
    for (const TensorSpec& spec : specs) {
      std::vector<MemberTensor>& tensors = found[spec.name] = Collect(members, spec.name);
      if (tensors.size() < members.size()) {
        return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", spec.name, ": found it in ", tensors.size(),
                                                       " of ", members.size(), " members"));
      }
      WEFT_RETURN_IF_ERROR(CheckShapes(spec.name, tensors, spec.shape));
    }
    if (!found.contains(kDeep) && !Collect(members, kDeep).empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter tensor ", kDeep, ": adapter.config.deep is false, or the base has one layer"));
    }
    AttachedForm attached(base);
    attached.prompt = std::make_unique<Prompts>(found[kFirst], found[kDeep], config_.dropout());
    return attached;
  }

 private:
  const std::unique_ptr<Form> form_;
  const proto::PromptConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchPrompt(const proto::AdapterConfig& config) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Form> form, CreateForm(config));
  proto::PromptConfig prompt;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config.config(), "adapter.config", &prompt));
  return std::make_unique<TorchPrompt>(std::move(form), std::move(prompt));
}

}  // namespace weft
