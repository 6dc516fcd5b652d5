#ifndef WEFT_COMMON_STATUS_MACROS_H_
#define WEFT_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define WEFT_MACRO_CONCAT_INNER(a, b) a##b
#define WEFT_MACRO_CONCAT(a, b) WEFT_MACRO_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` is not OK.
#define WEFT_RETURN_IF_ERROR(expr)                                                \
  do {                                                                            \
    if (absl::Status weft_status = (expr); !weft_status.ok()) return weft_status; \
  } while (false)

#define WEFT_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expr)    \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)

// `lhs` may be a declaration. Returns the error of `expr` when it has one.
#define WEFT_ASSIGN_OR_RETURN(lhs, expr) WEFT_ASSIGN_OR_RETURN_IMPL(WEFT_MACRO_CONCAT(weft_or_, __LINE__), lhs, expr)

#endif  // WEFT_COMMON_STATUS_MACROS_H_
