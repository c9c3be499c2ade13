//! `shield-agent suggest nginx FILE…`: the command line of `crate::suggest`, which learns `limit_req` from past logs. Needs no
//! privileges, and changes nothing of nginx's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::replay::{Progress, format_of, judge, load, say};
use super::reply::{Format, JsonArg};
use super::{Exit, print};
use crate::replay::input::{self, Arranged, Input};
use crate::suggest::{Beyond, Judged, Suggestion, nginx, suggest};
use shield_engine::request::Batch;

#[derive(Debug, Clone, Args)]
pub(crate) struct SuggestArgs {
    #[command(subcommand)]
    command: SuggestCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum SuggestCommand {
    /// Print limit_req lines that good clients do not reach, as a dry run of nginx's own, with what they would have done
    Nginx(NginxArgs),
}

#[derive(Debug, Clone, Args)]
struct NginxArgs {
    /// Access logs of one site, in any order: JSON or nginx's combined format, plain, .gz, .bz2, .xz or .zst
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration, whose rules tell attackers and whose allowed networks are not limited (default: the built-in one)
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Refuse what good clients do not need, instead of delaying as much again
    #[arg(long)]
    nodelay: bool,
    /// Write the two parts into this folder, as shield-limits-http.conf and shield-limits-server.conf
    #[arg(long, value_name = "FOLDER", conflicts_with = "json")]
    into: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

/// Learns, proves and prints.
///
/// # Errors
/// When the configuration is wrong, a log cannot be read or read more than once, or too few good clients are in the logs.
pub(crate) fn run(args: &SuggestArgs) -> Result<Exit> {
    let SuggestCommand::Nginx(args) = &args.command;
    let suggestion = suggestion(args)?;
    let (http, server) = (nginx::http(&suggestion), nginx::server(&suggestion));
    if let Some(folder) = &args.into {
        write(&folder.join(nginx::HTTP_FILE), &http)?;
        write(&folder.join(nginx::SERVER_FILE), &server)?;
        print::text(&format!(
            "Include {0}/{1} inside http {{ }} and {0}/{2} inside server {{ }}; then: nginx -t\n",
            folder.display(),
            nginx::HTTP_FILE,
            nginx::SERVER_FILE
        ))?;
        return Ok(Exit::Done);
    }
    match args.json.format() {
        Format::Json => print::json(&suggestion)?,
        Format::Text => print::text(&format!("{http}\n\n{server}"))?,
    }
    Ok(Exit::Done)
}

fn suggestion(args: &NginxArgs) -> Result<Suggestion> {
    let config = load(args.config.as_deref())?;
    let format = format_of(&config);
    let inputs: Vec<Input> = args.files.iter().map(|file| Input::of(file)).collect();
    if let Some(stream) = inputs.iter().find(|input| input.is_stream()) {
        bail!("the logs are read several times, and {} can be read only once: name files", stream.name());
    }
    let Arranged { inputs, notes } = input::arrange(inputs, &format)?;
    notes.iter().for_each(|note| say(note));
    let outcome = judge(&inputs, &config)?;
    let exempt = config.allow.iter().map(|allowed| allowed.network).collect();
    let judged = Judged::new(&outcome, exempt, config.engine.ipv6_prefix);
    let beyond = if args.nodelay { Beyond::Refuse } else { Beyond::Delay };
    suggest(judged, beyond, &mut |each| {
        let progress = Progress::of(&inputs);
        for input in &inputs {
            // What is damaged was said when the log was replayed.
            let _damage = input.read(&format, &progress.read_bytes, &mut |batch: &mut Batch| {
                each(batch);
                progress.show();
                Ok(())
            })?;
        }
        progress.end();
        Ok(())
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
