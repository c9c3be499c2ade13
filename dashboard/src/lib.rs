//! The live page of Shield: a router that serves a few embedded files, and the headers that keep the page to itself.
//!
//! The page is TypeScript (`web/`), bundled by `cargo xtask build` and embedded by `build.rs`; it knows the agent only
//! through `/api/v1` (`docs/openapi.json`). This crate has no privileges, no state and no type of the agent's. Who may
//! connect, compression, time limits and the Host check are the agent's business (`shield_agent::api`).

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// One embedded file.
#[derive(Debug)]
struct Asset {
    /// The path it is served at.
    path: &'static str,
    /// Its media type.
    content_type: &'static str,
    /// A weak entity tag made from its content.
    etag: &'static str,
    /// The content.
    body: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Everything comes from this server, nothing is inline but one style that is known by its hash, and no string can become
/// markup or script: with Trusted Types and no policy the browser itself refuses `innerHTML`. What attackers request is shown
/// on the page, so this is the second line of defence.
pub const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; script-src 'self'; style-src ",
    env!("SHIELD_PAGE_STYLE"),
    "; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'"
);

/// The headers of every answer.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Revalidated each time and answered with 304: an upgraded agent is never shown by an old page.
    (header::CACHE_CONTROL, "no-cache"),
    (header::VARY, "accept-encoding"),
];

/// Returns true if the page was bundled before this binary was compiled; otherwise `/` explains how to get it.
pub const fn was_built() -> bool {
    BUILT
}

/// Serves the page at `/` and its files beside it. Has no fallback, so it can be merged with the API's router.
pub fn router() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router.route(asset.path, get(move |request: HeaderMap| async move { serve(asset, &request) }))
    })
}

/// Answers with a file, or with `304 Not Modified` if the browser has it.
fn serve(asset: &'static Asset, request: &HeaderMap) -> Response {
    let mut response = if has_current(request, asset.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.content_type)], asset.body).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static(asset.etag));
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// RFC 9110, 13.1.2: weak comparison, and `*` matches all.
fn has_current(request: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get_page(path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn every_file_has_its_type_its_tag_and_the_policy() {
        for asset in ASSETS {
            let response = get_page(asset.path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
            assert_eq!(response.headers()[header::CONTENT_TYPE], asset.content_type);
            assert_eq!(response.headers()[header::ETAG], asset.etag);
            for (name, value) in HEADERS {
                assert_eq!(response.headers()[&name], value, "{} of {}", name, asset.path);
            }
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), asset.body);
        }
    }

    #[tokio::test]
    async fn what_the_browser_has_is_not_sent_again() {
        let etag = ASSETS[0].etag;
        let strong = etag.trim_start_matches("W/");
        for tag in [etag, strong, "*", &format!("\"other\", {etag}")] {
            let response = get_page("/", Some(tag)).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{tag}");
            assert_eq!(response.headers()[header::ETAG], etag);
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
        assert_eq!(get_page("/", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        for path in ["/index.html", "/../Cargo.toml", "/app.js.map", "/api/v1/status"] {
            assert_eq!(get_page(path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn a_page_without_its_bundle_says_how_to_get_it() {
        let page = include_str!("not_built.html");
        assert!(page.contains("built without the page") && page.contains("cargo xtask build"));
        assert_eq!(was_built(), ASSETS.len() > 1);
    }

    /// The policy forbids inline script, and style but for the one that it has the hash of: markup that has some breaks silently.
    #[test]
    fn no_markup_needs_what_the_policy_forbids() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type.starts_with("text/html")) {
            let page = str::from_utf8(asset.body).unwrap();
            let (before, rest) = page.split_once("<style data-hash=\"").unwrap_or((page, ""));
            let (hash, style) = rest.split_once("\">").unwrap_or_default();
            assert!(
                CONTENT_SECURITY_POLICY.contains(&format!("style-src '{hash}';")) || hash.is_empty(),
                "{hash}"
            );
            let page = [before, style.split_once("</style>").map_or("", |(_, after)| after)].concat();
            for forbidden in ["style=", "<style", "onclick=", "<script>", "//cdn", "http://", "https://"] {
                assert!(!page.contains(forbidden), "{forbidden} in {}", asset.path);
            }
        }
    }
}
