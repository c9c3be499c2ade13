//! `shield-agent page`: how one gets to the page: its address, the way through SSH, the token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use super::client::AgentClient;
use super::reply::{Format, JsonArg};
use super::{Exit, print};
use crate::api::TOKEN_FILE;
use crate::api::operation::Operation;
use crate::api::types::{ConfigView, Status};

#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// Print the token alone, for a password manager or a script
    #[arg(long, conflicts_with = "json")]
    token: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// Where the page is.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
struct Place {
    /// `null` where the page is switched off.
    listen: Option<SocketAddr>,
    token_file: PathBuf,
    host: String,
}

pub(crate) async fn run(args: &PageArgs, client: &AgentClient) -> Result<Exit> {
    let config: ConfigView = client.get(Operation::Config, &[]).await?;
    let status: Status = client.get(Operation::Status, &[]).await?;
    let page = status.parts.iter().find(|part| part.part == "page").map(|part| part.text.as_str());
    let place = place(&config.settings, page.and_then(served), status.host.name);
    let token = std::fs::read_to_string(&place.token_file).map(|token| token.trim().to_owned());
    if args.token {
        return match token {
            Ok(token) => print::text(&format!("{token}\n")).map(|()| Exit::Done),
            Err(error) => bail!("could not read {}: {error}; run it as root", place.token_file.display()),
        };
    }
    match args.json.format() {
        Format::Json => print::json(&place)?,
        Format::Text => print::text(&render(&place, token.as_deref().ok()))?,
    }
    Ok(Exit::Done)
}

/// The address in the state of a page that is served: another port than the configured one where that was taken.
fn served(state: &str) -> Option<SocketAddr> {
    state.strip_prefix("http://")?.split('/').next()?.parse().ok()
}

fn place(settings: &serde_json::Value, served: Option<SocketAddr>, host: String) -> Place {
    let find =
        |pointer: &str| settings.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned);
    let state_dir = find("/agent/state_dir").unwrap_or_else(|| "/var/lib/shield".to_owned());
    Place {
        listen: served.or_else(|| find("/page/listen").and_then(|addr| addr.parse().ok())),
        token_file: Path::new(&state_dir).join(TOKEN_FILE),
        host,
    }
}

fn render(place: &Place, token: Option<&str>) -> String {
    let Some(listen) = place.listen else {
        return "The page is switched off: [page] enabled = false.\n".to_owned();
    };
    let file = place.token_file.display();
    let token = match token {
        Some(token) => format!("{token}  (from {file})"),
        None => format!("in {file}, which root can read"),
    };
    let way = if listen.ip().is_loopback() {
        let (port, host) = (listen.port(), &place.host);
        format!(
            "from here    http://{listen}/\n\
             from afar    ssh -L {port}:{listen} {host}   and then http://127.0.0.1:{port}/\n"
        )
    } else if listen.ip().is_unspecified() {
        format!("page         http://{}:{}/\n", place.host, listen.port())
    } else {
        format!("page         http://{listen}/\n")
    };
    format!("{way}token        {token}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_page() {
        let place = |listen: Option<&str>| Place {
            listen: listen.map(|addr| addr.parse().unwrap()),
            token_file: "/var/lib/shield/api-token".into(),
            host: "web1".into(),
        };
        assert_eq!(
            render(&place(Some("127.0.0.1:8080")), Some("abc")),
            "from here    http://127.0.0.1:8080/\n\
             from afar    ssh -L 8080:127.0.0.1:8080 web1   and then http://127.0.0.1:8080/\n\
             token        abc  (from /var/lib/shield/api-token)\n"
        );
        assert_eq!(
            render(&place(Some("0.0.0.0:80")), None),
            "page         http://web1:80/\ntoken        in /var/lib/shield/api-token, which root can read\n"
        );
        assert!(render(&place(None), None).contains("enabled = false"));
    }

    #[test]
    fn it_is_found_in_the_configuration_in_force() {
        let config =
            crate::config::Config::parse("[[source]]\npath = '/a.log'\n[agent]\nstate_dir = '/state'")
                .unwrap();
        let found = place(&config.shown(), None, "web1".into());
        assert_eq!(found.token_file, Path::new("/state/api-token"));
        assert_eq!(found.listen, Some("127.0.0.1:8080".parse().unwrap()));
        let state = "http://127.0.0.1:8083/ (in place of port 8080, where nginx (pid 7) listens; next_free_port in [page])";
        let found = place(&config.shown(), served(state), "web1".into());
        assert_eq!(found.listen, Some("127.0.0.1:8083".parse().unwrap()));
        assert_eq!(served("could not listen on 127.0.0.1:8080"), None);
    }
}
