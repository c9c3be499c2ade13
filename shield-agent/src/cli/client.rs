//! Client of the running agent over its control socket: one connection per request, typed answers, errors that say what
//! to do. The commands choose the requests; `print` shows the answers.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use std::{error, fmt};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::api::operation::{BASE, Operation};
use crate::api::types::{ErrorBody, EventView, Gap, Snapshot};
use crate::edge::format::EdgeFormat;

/// Timeout of an answer: longer than the agent's own limit for a request, so that the agent's error arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The largest single message of an event stream, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The agent's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The control socket.
    Unix(PathBuf),
    /// The TCP listener, which commands never use: the control socket needs no token.
    #[cfg(any(test, feature = "test-support"))]
    Tcp {
        addr: std::net::SocketAddr,
        /// The bearer token, for changes.
        token: Option<String>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => path.display().fmt(f),
            #[cfg(any(test, feature = "test-support"))]
            Endpoint::Tcp { addr, .. } => addr.fmt(f),
        }
    }
}

#[derive(Debug)]
pub enum ClientError {
    /// Nothing listens there.
    NotRunning { endpoint: Endpoint, cause: std::io::Error },
    /// The caller has no permission.
    Denied(String),
    /// The agent refused the request.
    Refused(ErrorBody),
    /// The connection broke, or the answer could not be decoded.
    Broken { endpoint: Endpoint, cause: String },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NotRunning { endpoint, cause } => write!(
                f,
                "could not connect to the shield-agent on {endpoint} ({cause}): start it (`systemctl start shield` or \
                 `shield-agent run`), or name its socket with --socket"
            ),
            ClientError::Denied(words) => f.write_str(words),
            ClientError::Refused(body) => f.write_str(&body.message),
            ClientError::Broken { endpoint, cause } => {
                write!(f, "could not get an answer from the shield-agent on {endpoint}: {cause}")
            }
        }
    }
}

impl error::Error for ClientError {}

#[derive(Debug, Clone)]
pub struct AgentClient {
    endpoint: Endpoint,
}

type Connection = http1::SendRequest<Full<Bytes>>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl AgentClient {
    /// Creates a client that connects to `endpoint` for every request.
    pub fn new(endpoint: Endpoint) -> AgentClient {
        AgentClient { endpoint }
    }

    /// Performs a read with query `params`.
    pub async fn get<T: DeserializeOwned>(
        &self,
        operation: Operation,
        params: &[(&str, String)],
    ) -> Result<T, ClientError> {
        let request = self.request(operation, params).body(Full::default());
        self.answer(request.expect("the parts of the request are well-formed")).await
    }

    /// Reads the list of bans for other programs; `None` while it is the one with the tag `known`.
    pub(crate) async fn list(
        &self,
        format: EdgeFormat,
        known: Option<&str>,
    ) -> Result<Option<(Option<String>, String)>, ClientError> {
        let params = [("format", format.name().to_owned())];
        let mut request = self.request(Operation::Export, &params);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let request = request.body(Full::default()).expect("the parts of the request are well-formed");
        self.in_time(async {
            let response = self.send(request).await?;
            if response.status() == StatusCode::NOT_MODIFIED {
                return Ok(None);
            }
            if !response.status().is_success() {
                return Err(self.refusal(response).await?);
            }
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            let bytes = self.read(response).await?;
            let text = String::from_utf8(bytes.to_vec());
            let text = text.map_err(|error| self.broken(format!("its answer is no text: {error}")))?;
            Ok(Some((tag, text)))
        })
        .await
    }

    /// An answer that does not fit this version.
    pub(crate) fn misunderstood(&self, what: &str) -> ClientError {
        self.broken(format!("its answer does not fit this version: {what:?}"))
    }

    /// Performs a change.
    pub async fn post<T: DeserializeOwned>(
        &self,
        operation: Operation,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).expect("requests have only text keys");
        let request = self.request(operation, &[]).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(json)).expect("the parts of the request are well-formed");
        self.answer(request).await
    }

    /// Opens the live events, after the notice `last_id` when there is one.
    pub async fn events(&self, last_id: Option<u64>) -> Result<EventStream, ClientError> {
        let mut request = self.request(Operation::Events, &[]).header(ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id.to_string());
        }
        let request = request.body(Full::default()).expect("the parts of the request are well-formed");
        let response = self.in_time(self.send(request)).await?;
        if response.status() != StatusCode::OK {
            return Err(self.in_time(self.refusal(response)).await.unwrap_or_else(|error| error));
        }
        Ok(EventStream { endpoint: self.endpoint.clone(), body: response.into_body(), buffer: Vec::new() })
    }

    fn request(&self, operation: Operation, params: &[(&str, String)]) -> hyper::http::request::Builder {
        let mut url = reqwest::Url::parse("http://localhost").expect("the constant is a URL");
        url.set_path(&format!("{BASE}{}", operation.path()));
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let request = Request::builder().method(operation.method()).uri(target).header(HOST, "localhost");
        match &self.endpoint {
            #[cfg(any(test, feature = "test-support"))]
            Endpoint::Tcp { token: Some(token), .. } => {
                request.header(hyper::header::AUTHORIZATION, format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, ClientError> {
        self.in_time(async {
            let response = self.send(request).await?;
            if !response.status().is_success() {
                return Err(self.refusal(response).await?);
            }
            let bytes = self.read(response).await?;
            serde_json::from_slice(&bytes)
                .map_err(|error| self.broken(format!("its answer does not fit this version: {error}")))
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let late = |_| Err(self.broken(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
        tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(late)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let mut connection = self.connect().await?;
        connection.send_request(request).await.map_err(|error| self.broken(error.to_string()))
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let stream: Pin<Box<dyn Stream>> = match &self.endpoint {
            Endpoint::Unix(path) => {
                Box::pin(UnixStream::connect(path).await.map_err(|error| self.unreachable(error))?)
            }
            #[cfg(any(test, feature = "test-support"))]
            Endpoint::Tcp { addr, .. } => {
                Box::pin(tokio::net::TcpStream::connect(addr).await.map_err(|error| self.unreachable(error))?)
            }
        };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| self.broken(error.to_string()))?;
        // Ends with the last of its requests; an error shows there as well.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = limited.collect().await.map_err(|error| self.broken(error.to_string()))?;
        Ok(body.to_bytes())
    }

    async fn refusal(&self, response: Response<Incoming>) -> Result<ClientError, ClientError> {
        let status = response.status();
        let bytes = self.read(response).await?;
        let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) else {
            return Ok(self.broken(format!("HTTP status {status}")));
        };
        Ok(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Denied(body.message),
            _ => ClientError::Refused(body),
        })
    }

    fn unreachable(&self, cause: std::io::Error) -> ClientError {
        if cause.kind() == ErrorKind::PermissionDenied {
            return ClientError::Denied(format!(
                "no permission to use {}: run as root, or join the group {} (`usermod -aG {} USER`, then log in again)",
                self.endpoint,
                crate::api::socket::GROUP,
                crate::api::socket::GROUP
            ));
        }
        ClientError::NotRunning { endpoint: self.endpoint.clone(), cause }
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Broken { endpoint: self.endpoint.clone(), cause }
    }
}

/// One message of the event stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Notice(Box<EventView>),
    /// The whole state.
    Snapshot(Box<Snapshot>),
    /// Notices were missed.
    Gap(Gap),
}

/// The event stream.
#[derive(Debug)]
pub struct EventStream {
    endpoint: Endpoint,
    body: Incoming,
    buffer: Vec<u8>,
}

impl EventStream {
    /// Returns the next message; `None` when the agent ended the stream. Skips kinds that this version does not know.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            while let Some(message) = take_message(&mut self.buffer) {
                if let Some(message) = parse_message(&message).map_err(|cause| self.broken(cause))? {
                    return Ok(Some(message));
                }
            }
            if self.buffer.len() > MAX_MESSAGE_BYTES {
                return Err(self.broken("an event is larger than the limit".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(error)) => return Err(self.broken(error.to_string())),
                None => return Ok(None),
            }
        }
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Broken { endpoint: self.endpoint.clone(), cause }
    }
}

/// Removes the first complete message (up to an empty line) from the buffer.
fn take_message(buffer: &mut Vec<u8>) -> Option<String> {
    let end = memchr::memmem::find(buffer, b"\n\n")?;
    let message = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 2);
    Some(message)
}

/// A message of server-sent events as this agent writes them: single-line data, `\n` ends.
fn parse_message(text: &str) -> Result<Option<Message>, String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let Some(data) = field("data:") else { return Ok(None) };
    let wrong = |error: serde_json::Error| format!("its event does not fit this version: {error}");
    match field("event:") {
        Some("notice") => serde_json::from_str(data).map(Message::Notice).map(Some).map_err(wrong),
        Some("snapshot") => serde_json::from_str(data).map(Message::Snapshot).map(Some).map_err(wrong),
        Some("gap") => serde_json::from_str(data).map(Message::Gap).map(Some).map_err(wrong),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let stream = b"event: gap\ndata: {\"missed\":3}\n\n: comment\n\nevent: later\ndata: 1\n\nevent: gap\ndata: {\"missed\":4}\n\n";
        for cut in 0..stream.len() {
            let mut buffer = Vec::new();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(text) = take_message(&mut buffer) {
                    seen.extend(parse_message(&text).unwrap());
                }
            }
            assert_eq!(
                seen,
                [Message::Gap(Gap { missed: 3 }), Message::Gap(Gap { missed: 4 })],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_query_is_encoded() {
        let client = AgentClient::new(Endpoint::Unix("/nowhere".into()));
        let params = [("client", "2001:db8::/64".to_owned()), ("q", "a&b=c d".to_owned())];
        let request = client.request(Operation::Explain, &params).body(()).unwrap();
        assert_eq!(request.uri(), "/api/v1/explain?client=2001%3Adb8%3A%3A%2F64&q=a%26b%3Dc+d");
    }

    #[tokio::test]
    async fn a_missing_agent_is_reported_with_its_socket_and_what_to_do() {
        let client = AgentClient::new(Endpoint::Unix("/nonexistent/control.sock".into()));
        let error = client.get::<serde_json::Value>(Operation::Status, &[]).await.unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }));
        let text = error.to_string();
        assert!(text.contains("/nonexistent/control.sock") && text.contains("--socket"), "{text}");
    }
}
