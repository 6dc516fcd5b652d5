#ifndef WEFT_SERVER_WEB_PAGE_ASSETS_H_
#define WEFT_SERVER_WEB_PAGE_ASSETS_H_

#include <string_view>
#include <vector>

namespace weft::server {

// A file of the page, compiled in.
struct PageAsset {
  std::string_view path;  // "/" is index.html
  std::string_view type;  // media type
  std::string_view content;
};

// The files under page/ (embed.sh).
const std::vector<PageAsset>& PageAssets();

}  // namespace weft::server

#endif  // WEFT_SERVER_WEB_PAGE_ASSETS_H_
