//! Refusals of the API: one JSON shape with a stable code and a message. Internal errors are logged with their causes and
//! answered without them, because a cause can name files and settings that the caller may not see.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::backend::Refusal;
use super::types::{ErrorBody, ErrorCode};

/// A refusal: a code, whose HTTP status it is answered with, and a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub code: ErrorCode,
    pub message: String,
}

impl ApiError {
    fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::BadRequest, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::Unauthorized, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::Forbidden, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::NotFound, message)
    }

    pub(crate) fn method_not_allowed() -> ApiError {
        ApiError::new(
            ErrorCode::MethodNotAllowed,
            "this path does not take this method; docs/openapi.json lists the methods",
        )
    }

    pub(crate) fn timeout() -> ApiError {
        ApiError::new(ErrorCode::Timeout, "the agent did not answer in time; try again")
    }

    pub(crate) fn wrong_host(host: &str) -> ApiError {
        ApiError::new(
            ErrorCode::WrongHost,
            format!(
                "{host:?} is not a name of this agent; use localhost or its address, or add the name to `hosts` in [page]"
            ),
        )
    }

    pub(crate) fn too_many_streams(limit: usize) -> ApiError {
        ApiError::new(
            ErrorCode::TooManyStreams,
            format!("{limit} event streams are open already; close one, or poll /api/v1/status"),
        )
    }

    pub(crate) fn overloaded(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::Overloaded, message)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Unavailable(message) => ApiError::overloaded(message),
            Refusal::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "could not answer an API request");
                ApiError::new(ErrorCode::Internal, "internal error; its causes are in the agent's log")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.name().to_owned(), message: self.message };
        let mut response = (self.code.status(), Json(body)).into_response();
        if self.code == ErrorCode::Unauthorized {
            let challenge = axum::http::HeaderValue::from_static("Bearer realm=\"shield\"");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Query parameters. In contrast to axum's own extractor it refuses in JSON, as everything else here does.
#[derive(Debug)]
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Params(params)).map_err(|rejection: QueryRejection| {
            ApiError::bad_request(format!("query of {}: {}", parts.uri.path(), innermost(&rejection)))
        })
    }
}

/// A JSON body, refused in JSON.
#[derive(Debug)]
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        let json = Json::<T>::from_request(request, state).await;
        json.map(|Json(body)| Body(body)).map_err(|rejection: JsonRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(ErrorCode::TooLarge, "the body is too large; send it in several requests")
            }
            _ => ApiError::bad_request(format!("body: {}", innermost(&rejection))),
        })
    }
}

/// The innermost cause: the outer ones say only that deserialising failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
