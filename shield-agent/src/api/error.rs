//! How the API says no: one JSON shape with a stable code and words for people. Internal errors are logged with their
//! causes and answered without them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::backend::Refusal;
use super::types::ErrorBody;

/// A refusal on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// 400: the words say what, where and what to do.
    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::BAD_REQUEST, code: "bad_request", message: message.into() }
    }

    /// 401.
    pub(crate) fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::UNAUTHORIZED, code: "unauthorized", message: message.into() }
    }

    /// 403.
    pub(crate) fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::FORBIDDEN, code: "forbidden", message: message.into() }
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::NOT_FOUND, code: "not_found", message: message.into() }
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> ApiError {
        ApiError {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "method_not_allowed",
            message: "this path takes another method; see docs/openapi.json".to_owned(),
        }
    }

    /// 408.
    pub(crate) fn timeout() -> ApiError {
        ApiError {
            status: StatusCode::REQUEST_TIMEOUT,
            code: "timeout",
            message: "the answer took too long; try again".to_owned(),
        }
    }

    /// 421.
    pub(crate) fn wrong_host(host: &str) -> ApiError {
        ApiError {
            status: StatusCode::MISDIRECTED_REQUEST,
            code: "wrong_host",
            message: format!(
                "{host:?} is no name of this agent; use localhost or its address, or add the name to `hosts` in [page]"
            ),
        }
    }

    /// 429.
    pub(crate) fn too_many_streams(limit: usize) -> ApiError {
        ApiError {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "too_many_streams",
            message: format!("{limit} event streams are open already; close one, or poll /api/v1/status"),
        }
    }

    /// 503.
    pub(crate) fn overloaded(message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::SERVICE_UNAVAILABLE, code: "overloaded", message: message.into() }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::BadRequest(message) => ApiError::bad_request(message),
            Refusal::NotFound(message) => ApiError::not_found(message),
            Refusal::Unavailable(message) => ApiError::overloaded(message),
            Refusal::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "an API request failed");
                ApiError {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    code: "internal",
                    message: "an internal error; its causes are in the agent's log".to_owned(),
                }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = axum::http::HeaderValue::from_static("Bearer realm=\"shield\"");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Query parameters; a bad one is answered in JSON.
#[derive(Debug)]
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Params(params)).map_err(|rejection: QueryRejection| {
            ApiError::bad_request(format!("query of {}: {}", parts.uri.path(), causes(&rejection)))
        })
    }
}

/// A JSON body; a bad one is answered in JSON.
#[derive(Debug)]
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        let json = Json::<T>::from_request(request, state).await;
        json.map(|Json(body)| Body(body)).map_err(|rejection: JsonRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                code: "too_large",
                message: "the body is too large; send it in several requests".to_owned(),
            },
            _ => ApiError::bad_request(format!("body: {}", causes(&rejection))),
        })
    }
}

/// The innermost cause says what is wrong; the outer ones only that something is.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
