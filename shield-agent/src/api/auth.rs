//! Authorisation. On the Unix socket the peer's credentials decide. On TCP the Host header does (against DNS rebinding),
//! then the bearer token: always for changes, for reads only if the agent listens beyond loopback. No CORS headers, so that
//! a browser keeps other sites from reading anything.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;
use super::token::Token;
use super::types::{Transport, Whoami};

/// The checks of TCP requests.
#[derive(Debug, Clone)]
pub(crate) struct TcpAuth {
    token: Token,
    hosts: Hosts,
    reads: Reads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Open,
    NeedToken,
}

/// The names of this agent that a Host header may contain.
#[derive(Debug, Clone)]
struct Hosts {
    bound: IpAddr,
    names: Names,
}

/// The configured ones of these names. A clone is the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Arc<RwLock<Vec<String>>>);

impl Names {
    /// Answers to these names from now on.
    pub(crate) fn set(&self, names: &[String]) {
        let names = names.iter().map(|name| plain(name)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn contains(&self, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|own| own == name)
    }
}

/// An address as Rust writes it, a name in lower case.
fn plain(name: &str) -> String {
    let name = name.trim_end_matches('.');
    match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(addr) => addr.to_canonical().to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// The verdict on the peer of a Unix connection, an extension of each of its requests. An error has the reason for the
/// refusal.
#[derive(Debug, Clone)]
pub struct Peer(pub Result<(), Arc<str>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credentials {
    None,
    Right,
    Wrong,
}

impl TcpAuth {
    /// The checks of a listener bound to `bound`; `names` are further host names, without a port.
    pub(crate) fn new(token: Token, bound: SocketAddr, names: &[String]) -> TcpAuth {
        let reads = if bound.ip().is_loopback() { Reads::Open } else { Reads::NeedToken };
        let own = Names::default();
        own.set(names);
        let names = own;
        TcpAuth { token, hosts: Hosts { bound: bound.ip().to_canonical(), names }, reads }
    }

    pub(crate) fn names(&self) -> Names {
        self.hosts.names.clone()
    }

    fn authorise(&self, request: &Request) -> Result<Whoami, ApiError> {
        self.hosts.check(request)?;
        let credentials = self.credentials(request);
        let is_data = is_data(request.uri().path());
        if is_data {
            self.refuse_other_sites(request)?;
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match credentials {
            Credentials::Wrong => Err(ApiError::unauthorized(
                "the bearer token is wrong; the right one is in the file `api-token` in the agent's state directory",
            )),
            Credentials::None if !is_read => Err(ApiError::unauthorized(
                "changes over TCP need `Authorization: Bearer TOKEN`; the token is in the file `api-token` in the \
                 agent's state directory",
            )),
            Credentials::None if is_data && self.reads == Reads::NeedToken => Err(ApiError::unauthorized(
                "this agent listens beyond loopback, so reading needs `Authorization: Bearer TOKEN` as well",
            )),
            Credentials::None | Credentials::Right => Ok(Whoami {
                transport: Transport::Tcp,
                may_change: credentials == Credentials::Right,
                token_for_reads: self.reads == Reads::NeedToken,
            }),
        }
    }

    /// Refuses what a page of another site has a browser ask here. It cannot read the answer, but it could keep the agent
    /// busy through an operator's tunnel, a request for each of its images. Programs send none of these headers.
    fn refuse_other_sites(&self, request: &Request) -> Result<(), ApiError> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        // `same-site` is another port of this name: another server.
        let is_other = |site: &str| !matches!(site, "same-origin" | "none");
        // For a browser that does not know `Sec-Fetch-Site` yet.
        let is_foreign = |origin: &str| {
            let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
            !self.hosts.is_ours(host.split('/').next().unwrap_or(host))
        };
        let refused = match header("sec-fetch-site") {
            Some(site) => is_other(site),
            None => ["origin", "referer"].into_iter().filter_map(header).any(is_foreign),
        };
        if refused {
            return Err(ApiError::forbidden("requests of other sites' pages are not answered"));
        }
        Ok(())
    }

    fn credentials(&self, request: &Request) -> Credentials {
        let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            let none = request.headers().get(header::AUTHORIZATION).is_none();
            return if none { Credentials::None } else { Credentials::Wrong };
        };
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if token.is_some_and(|token| self.token.is(token)) { Credentials::Right } else { Credentials::Wrong }
    }
}

/// True for the API, the metrics and the health. The files of the page are the same on every server, and a browser cannot send a token
/// for them.
fn is_data(path: &str) -> bool {
    path == "/metrics" || path == "/healthz" || path == "/api" || path.starts_with("/api/")
}

impl Hosts {
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let mut headers = request.headers().get_all(header::HOST).iter();
        let named = match (headers.next(), headers.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        };
        let named =
            request.uri().authority().map(|authority| authority.as_str()).or(named).unwrap_or_default();
        if self.is_ours(named) { Ok(()) } else { Err(ApiError::wrong_host(named)) }
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(addr) => self.is_our_address(addr.to_canonical()),
            Err(_) => name == "localhost" || self.names.contains(&name),
        }
    }

    /// With an address in the Host header a request cannot come from DNS rebinding, which needs a name. Bound to all
    /// addresses, any of them may be ours.
    fn is_our_address(&self, addr: IpAddr) -> bool {
        let is_named = || self.names.contains(&addr.to_string());
        addr.is_loopback() || addr == self.bound || self.bound.is_unspecified() || is_named()
    }
}

fn without_port(host: &str) -> Option<&str> {
    let name_end =
        if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, rest) = host.split_at(name_end);
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_sound = !name.is_empty() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    is_sound.then_some(name)
}

/// Authorises requests over TCP.
pub(crate) async fn tcp(
    State(auth): State<Arc<TcpAuth>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let whoami = auth.authorise(&request)?;
    request.extensions_mut().insert(whoami);
    Ok(next.run(request).await)
}

/// Authorises requests over the control socket.
pub(crate) async fn unix(mut request: Request, next: Next) -> Result<Response, ApiError> {
    match request.extensions().get::<Peer>() {
        Some(Peer(Ok(()))) => {}
        Some(Peer(Err(reason))) => return Err(ApiError::forbidden(reason.to_string())),
        None => return Err(ApiError::forbidden("could not read the peer's credentials")),
    }
    let whoami = Whoami { transport: Transport::Unix, may_change: true, token_for_reads: false };
    request.extensions_mut().insert(whoami);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn auth(bound: &str) -> TcpAuth {
        TcpAuth::new(
            Token::of(TOKEN),
            bound.parse().unwrap(),
            &["Shield.Example.ORG".to_owned(), "192.0.2.80".to_owned(), "[2001:DB8:0::80]".to_owned()],
        )
    }

    #[test]
    fn only_names_of_this_agent_are_answered() {
        let check = |bound: &str, host: &str, expected: bool| {
            assert_eq!(auth(bound).hosts.is_ours(host), expected, "{bound} {host}");
        };
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
        ] {
            check("127.0.0.1:8080", host, true);
        }
        check("127.0.0.1:8080", "shield.example.org:8080", true);
        for host in
            ["", ":8080", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1"]
        {
            check("127.0.0.1:8080", host, false);
        }
        for host in ["localhost:99999", "localhost:x", "[::1", "::1:8080", "[localhost", "user@localhost:80"]
        {
            check("127.0.0.1:8080", host, false);
        }
        // What a proxy or a forwarded port is asked for.
        check("127.0.0.1:8080", "192.0.2.80:8443", true);
        check("127.0.0.1:8080", "[2001:db8::80]:8080", true);
        check("127.0.0.1:8080", "[2001:db8::81]:8080", false);
        check("192.0.2.1:8080", "192.0.2.1:8080", true);
        check("192.0.2.1:8080", "192.0.2.2:8080", false);
        check("0.0.0.0:8080", "192.0.2.2:8080", true);
        check("0.0.0.0:8080", "evil.example", false);
    }

    #[test]
    fn every_combination_of_listener_method_path_and_credentials() {
        const LOCAL: &str = "127.0.0.1:8080";
        const OPEN: &str = "192.0.2.1:8080";
        let right = format!("Bearer {TOKEN}");
        let check =
            |bound: &str, method: Method, path: &str, credentials: &str, expected: Result<bool, u16>| {
                let mut request =
                    Request::builder().method(method.clone()).uri(path).header("host", "localhost");
                if !credentials.is_empty() {
                    request = request.header("authorization", credentials);
                }
                let got = auth(bound).authorise(&request.body(Body::empty()).unwrap());
                let got = got.map(|whoami| whoami.may_change).map_err(|error| error.code.status().as_u16());
                assert_eq!(got, expected, "{bound} {method} {path} {credentials:?}");
            };
        for path in ["/api/v1/status", "/metrics", "/api/v1/events"] {
            check(LOCAL, Method::GET, path, "", Ok(false));
            check(OPEN, Method::GET, path, "", Err(401));
            check(OPEN, Method::HEAD, path, "", Err(401));
        }
        for path in ["/", "/app.js", "/apiary"] {
            check(LOCAL, Method::GET, path, "", Ok(false));
            check(OPEN, Method::GET, path, "", Ok(false));
        }
        for bound in [LOCAL, OPEN] {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
                check(bound, method.clone(), "/api/v1/ban", "", Err(401));
                check(bound, method, "/api/v1/ban", &right, Ok(true));
            }
            check(bound, Method::GET, "/api/v1/status", &right, Ok(true));
            check(bound, Method::GET, "/api/v1/status", &right.to_lowercase(), Ok(true));
            for wrong in ["Bearer", "Bearer ", "Bearer x", "Basic Zm9vOmJhcg==", TOKEN] {
                check(bound, Method::GET, "/api/v1/status", wrong, Err(401));
                check(bound, Method::POST, "/api/v1/ban", wrong, Err(401));
                check(bound, Method::GET, "/", wrong, Err(401));
            }
        }
    }

    #[test]
    fn pages_of_other_sites_get_nothing_even_with_the_token() {
        let check = |path: &str, name: &str, value: &str, expected: bool| {
            for token in ["", TOKEN] {
                let mut request =
                    Request::builder().uri(path).header("host", "localhost:8080").header(name, value);
                if !token.is_empty() {
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                let got = auth("127.0.0.1:8080").authorise(&request.body(Body::empty()).unwrap());
                assert_eq!(got.is_ok(), expected, "{path} {name}: {value} {token}");
            }
        };
        for path in ["/api/v1/clients", "/api/v1/events", "/metrics"] {
            check(path, "sec-fetch-site", "same-origin", true);
            check(path, "sec-fetch-site", "none", true);
            check(path, "sec-fetch-site", "cross-site", false);
            check(path, "sec-fetch-site", "same-site", false);
            check(path, "origin", "http://localhost:8080", true);
            check(path, "origin", "http://shield.example.org", true);
            check(path, "origin", "http://evil.example", false);
            check(path, "origin", "null", false);
            check(path, "referer", "http://127.0.0.1:8080/", true);
            check(path, "referer", "https://evil.example/page", false);
        }
        check("/", "sec-fetch-site", "cross-site", true);
    }

    #[test]
    fn two_tokens_or_hosts_are_refused() {
        let right = format!("Bearer {TOKEN}");
        let two_tokens = Request::builder().header("host", "localhost");
        let two_tokens = two_tokens.header("authorization", "Bearer x").header("authorization", &right);
        let refused = auth("127.0.0.1:1").authorise(&two_tokens.body(Body::empty()).unwrap()).unwrap_err();
        assert_eq!(refused.code.status(), StatusCode::UNAUTHORIZED);
        let two_hosts = Request::builder().header("host", "localhost").header("host", "evil.example");
        let refused = auth("127.0.0.1:1").authorise(&two_hosts.body(Body::empty()).unwrap()).unwrap_err();
        assert_eq!(refused.code.status(), StatusCode::MISDIRECTED_REQUEST);
    }
}
