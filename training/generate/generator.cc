#include "training/generate/generator.h"

#include <ATen/ops/mv.h>
#include <c10/core/InferenceMode.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "adapters/peft_folder.h"
#include "common/status_macros.h"
#include "training/device.h"
#include "training/forms/form.h"

namespace weft {

absl::StatusOr<std::unique_ptr<Generator>> Generator::Create(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(const at::Device device, SelectDevice(options.device));
  if (options.compute != "f32" && options.compute != "bf16") {
    return absl::InvalidArgumentError(absl::StrCat("compute: found \"", options.compute, "\", expected f32 or bf16"));
  }
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<BaseModel> base, BaseModel::Open(options.base, device));
  WEFT_RETURN_IF_ERROR(FindTask(base->description(), "causal_lm").status());
  std::unique_ptr<Generator> generator(
      new Generator(std::move(base), options.compute == "bf16" ? at::kBFloat16 : at::kFloat));
  WEFT_RETURN_IF_ERROR(generator->base_->transformer()->LmHead(generator->dtype_).status());
  generator->form_ = std::make_unique<AttachedForm>(generator->base_->description());
  if (!options.adapter.empty()) WEFT_RETURN_IF_ERROR(generator->AttachAdapter(options.adapter));
  return generator;
}

absl::Status Generator::AttachAdapter(const std::string& folder) {
  proto::TaskConfig task;
  task.set_type("causal_lm");
  WEFT_ASSIGN_OR_RETURN(const proto::AdapterConfig config, ReadPeftConfig(folder));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, MakeLayout(config, task, base_->description()));
  WEFT_ASSIGN_OR_RETURN(const Adapter adapter,
                        ReadPeftFolder(folder, std::move(layout), base_->description(), task.type()));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<TorchForm> form, CreateTorchForm(config));
  const CohortMember member{.client_id = "", .start = &adapter, .shard = nullptr};
  tensors_ = std::make_unique<CohortTensors>(std::span(&member, 1), std::set<std::string>(),
                                             std::map<std::string, double>(), base_->device());
  WEFT_ASSIGN_OR_RETURN(AttachedForm attached, form->Attach(base_->description(), tensors_->members()));
  form_ = std::make_unique<AttachedForm>(std::move(attached));
  prompt_tokens_ = form->prompt_tokens();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Generator::Generate(std::span<const int32_t> prompt, int64_t most,
                                                         const std::set<int32_t>& stop,
                                                         const std::function<bool(int32_t token)>& next) const {
  const c10::InferenceMode no_gradients;
  const TransformerModel& model = *base_->transformer();
  const Transformer& transformer = *base_->description().transformer;
  const int64_t places = static_cast<int64_t>(prompt.size()) + prompt_tokens_ + most;
  if (prompt.empty()) return absl::InvalidArgumentError("found no token to go on from, expected one at least");
  if (places > transformer.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(prompt.size(), " tokens of text, ", prompt_tokens_,
                                                   " of the adapter and ", most, " new ones are more than the base's ",
                                                   transformer.max_positions, " positions; ask for fewer"));
  }
  WEFT_ASSIGN_OR_RETURN(const at::Tensor head, model.LmHead(dtype_));
  KeyValueCache cache = model.MakeCache(places, dtype_);
  std::vector<int32_t> result;
  WEFT_ASSIGN_OR_RETURN(Batch batch, MakeTokenBatch(prompt, prompt_tokens_, transformer, base_->device()));
  while (true) {
    Pass pass({.form = form_.get(), .random = nullptr, .dtype = dtype_});
    const at::Tensor hidden = model.Continue(batch, model.linears(), pass, &cache);
    const int32_t token = Likeliest(hidden[batch.tokens.end(0) - 1], head);
    result.push_back(token);
    if (!next(token) || stop.contains(token) || static_cast<int64_t>(result.size()) == most) return result;
    WEFT_ASSIGN_OR_RETURN(batch, MakeTokenBatch({&token, 1}, /*prompt_tokens=*/0, transformer, base_->device()));
  }
}

int32_t Generator::Likeliest(const at::Tensor& hidden, const at::Tensor& head) const {
  return static_cast<int32_t>(at::mv(head, hidden).argmax().item<int64_t>());
}

}  // namespace weft
