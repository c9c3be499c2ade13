//! The last hour of the logs that the agent reads, as files for a replay.
//!
//! Each log's end and, before it, that of the file that was rotated last. Lines of a log are nearly in the order of their times,
//! so that the first one of the hour is found without reading all of them.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::stage::Staging;
use crate::config::Config;
use crate::source::{Input, Place};
use shield_engine::time::EventSecs;
use shield_logline::{Output, Parser, Settings as Format};

/// How far back the replay goes.
pub(super) const SECS: EventSecs = 3_600;
/// Bytes of the end of one file, and files.
const MAX_BYTES: u64 = 128 << 20;
const MAX_FILES: usize = 50;
/// Lines that are asked for a time in a row, where some have none.
const TRIED: usize = 100;

/// What there is to replay.
#[derive(Debug, Default)]
pub(super) struct Hour {
    pub files: Vec<PathBuf>,
    pub lines: u64,
    /// What is not in it, in sentences.
    pub left_out: Vec<String>,
}

/// Writes the lines of the last hour into the staging folder.
pub(super) fn collect(config: &Config, staging: &Staging, now: EventSecs) -> Result<Hour> {
    let mut hour = Hour::default();
    let Some(first) = config.sources.first() else { return Ok(hour) };
    for source in &config.sources {
        let Input::Files(text) = &source.input else {
            hour.left_out.push(format!("{}: it is no file, so its lines are not kept", source.name));
            continue;
        };
        if source.format != first.format {
            hour.left_out
                .push(format!("{}: a replay reads logs of one format, that of {}", source.name, first.name));
            continue;
        }
        for log in Place::of(text).paths() {
            for path in [rotated(&log), log] {
                let known = hour.files.len();
                if known == MAX_FILES {
                    hour.left_out.push(format!("{}: more than {MAX_FILES} files", path.display()));
                    continue;
                }
                // A log that is not there, or of which the hour has nothing, is nothing to compare.
                let Ok(Some((mut block, is_cut))) = tail(&path) else { continue };
                let from = first_of(&block, &source.format, now - SECS);
                block.drain(..from);
                if block.is_empty() {
                    continue;
                }
                if is_cut && from == 0 {
                    hour.left_out
                        .push(format!("{}: its end alone is read, not the whole hour", path.display()));
                }
                hour.lines += memchr::memchr_iter(b'\n', &block).count() as u64;
                let to = staging.path(&format!("hour-{known}.log"));
                fs::write(&to, &block).with_context(|| format!("could not write {}", to.display()))?;
                hour.files.push(to);
            }
        }
    }
    Ok(hour)
}

fn rotated(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The whole lines at the end of a regular file, and whether there is more before them.
fn tail(path: &Path) -> Result<Option<(Vec<u8>, bool)>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let from = meta.len().saturating_sub(MAX_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut block = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut block)?;
    block.truncate(memchr::memrchr(b'\n', &block).map_or(0, |at| at + 1));
    if from > 0 {
        let start = memchr::memchr(b'\n', &block).map_or(block.len(), |at| at + 1);
        block.drain(..start);
    }
    Ok(Some((block, from > 0)))
}

/// Where the first line that is not older than this begins.
fn first_of(block: &[u8], format: &Format, since: EventSecs) -> usize {
    let mut starts = vec![0];
    starts.extend(memchr::memchr_iter(b'\n', block).map(|at| at + 1));
    starts.pop_if(|last| *last == block.len());
    let is_older = |at: usize| {
        let line_time = |start: &usize| time_of(block.get(*start..).unwrap_or_default(), format);
        let time = starts.iter().skip(at).take(TRIED).find_map(line_time);
        time.is_some_and(|time| time < since)
    };
    let (mut low, mut high) = (0, starts.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if is_older(middle) { low = middle + 1 } else { high = middle }
    }
    starts.get(low).copied().unwrap_or(block.len())
}

/// The time of the first line of a text.
fn time_of(text: &[u8], format: &Format) -> Option<EventSecs> {
    let end = memchr::memchr(b'\n', text)? + 1;
    let mut line = text.get(..end)?.to_vec();
    let mut output = Output::default();
    Parser::new(format).parse_block(&mut line, 0, end, &mut output);
    output.lines.first().map(|line| line.time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: EventSecs) -> String {
        let time = jiff::Timestamp::from_second(at).unwrap().strftime("%d/%b/%Y:%H:%M:%S +0000");
        format!("192.0.2.7 - - [{time}] \"GET /{at} HTTP/1.1\" 200 5 \"-\" \"-\"\n")
    }

    #[test]
    fn the_hour_begins_at_its_first_line_and_goes_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let now = 1_795_530_901;
        let log = dir.path().join("access.log");
        let text =
            |range: std::ops::Range<EventSecs>| range.map(|ago| line(now - 7_200 + ago)).collect::<String>();
        fs::write(rotated(&log), text(0..5_000)).unwrap();
        fs::write(&log, format!("rubbish\n{}half a line", text(5_000..7_200))).unwrap();
        let config = Config::parse(&format!("[[source]]\npath = {log:?}\n")).unwrap();
        let staging = Staging::create(dir.path()).unwrap();
        let hour = collect(&config, &staging, now).unwrap();
        let read = |at: usize| fs::read_to_string(&hour.files[at]).unwrap();
        assert_eq!(hour.files.len(), 2, "{hour:?}");
        assert_eq!(hour.lines, 3_601, "{hour:?}");
        assert!(read(0).starts_with(&line(now - 3_600)), "{}", &read(0)[..80]);
        assert!(read(1).starts_with("rubbish\n") && read(1).ends_with(&line(now - 1)));
        assert!(hour.left_out.is_empty(), "{hour:?}");
        let none = collect(&config, &staging, now + 100_000).unwrap();
        assert_eq!((none.files.len(), none.lines), (0, 0), "{none:?}");
    }

    #[test]
    fn what_cannot_be_replayed_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        fs::write(&log, line(1_000)).unwrap();
        let text =
            format!("[[source]]\npath = {log:?}\n[[source]]\nsyslog = \"unix:/run/shield/log.sock\"\n");
        let Ok(config) = Config::parse(&text) else { return };
        let staging = Staging::create(dir.path()).unwrap();
        let hour = collect(&config, &staging, 1_000).unwrap();
        assert_eq!(hour.lines, 1);
        assert!(hour.left_out[0].contains("it is no file"), "{hour:?}");
    }
}
