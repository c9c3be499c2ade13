//! One connection to the fleet's servers: the stream, what comes in, what goes out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use async_nats::{Client as Nats, ConnectOptions};
use futures::StreamExt as _;
use futures::stream::{FuturesUnordered, ReadyChunks};
use tokio::time::timeout;

use super::Fleet;
use super::message::{self, Unread};
use super::outbox::{About, Due};
use super::publish::{InFlight, until_acknowledged};
use super::settings::{BATCH, CONSUMER_IN, FIRST_PAUSE, IN_FLIGHT, LONGEST_PAUSE, Settings, TIMEOUT};
use crate::clock;
use crate::notify::secret;
use crate::own_bans::{self, Change};
use crate::pipeline::Message;
use crate::text;
use shield_engine::event::PartState;
use shield_engine::origin::{Remote, Statement};

/// The stream's name.
pub(crate) const STREAM: &str = "SHIELD";
/// Messages older than this are of no use to anybody: operators' unbans hold for a day.
const MAX_AGE: Duration = Duration::from_secs(25 * 3600);
const MAX_BYTES: i64 = 1 << 30;
/// Copies of the stream where there are enough servers.
const REPLICAS: usize = 3;
/// A consumer that nobody reads is removed by the server after so long.
const IDLE: Duration = Duration::from_secs(300);
/// The server says at least so often that it is there. Two that are missed end the connection.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often what is due is looked for.
const TURN: Duration = Duration::from_millis(250);
/// Without any message from the server for this long the connection counts as lost. The consumer's heartbeats come each 15 s.
const QUIET: Duration = Duration::from_secs(60);
/// Refused or unanswered publishes in a row from which the part is degraded.
const FAILURES: u32 = 3;

pub(crate) fn stream_config(replicas: usize) -> stream::Config {
    stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![message::ALL.to_owned()],
        max_messages_per_subject: 1,
        max_age: MAX_AGE,
        max_bytes: MAX_BYTES,
        max_message_size: message::MAX_BYTES as i32,
        discard: stream::DiscardPolicy::Old,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        // Nothing is ever taken out but by a newer word of the same host.
        deny_delete: true,
        deny_purge: true,
        ..stream::Config::default()
    }
}

/// A consumer of the host's own name, because that is what the server can grant it alone. Nothing is acknowledged: the position
/// is in the host's own store.
fn consumer_config(name: &str, replicas: usize, deliver_policy: DeliverPolicy) -> pull::Config {
    pull::Config {
        name: Some(name.to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        inactive_threshold: IDLE,
        memory_storage: true,
        // As many as the stream has: one that is on a lost server alone can be neither read nor replaced.
        num_replicas: replicas,
        ..pull::Config::default()
    }
}

pub(crate) async fn connect(settings: &Settings) -> Result<Nats> {
    let mut options = ConnectOptions::new()
        .name(format!("shield {}", settings.name))
        .connection_timeout(TIMEOUT)
        .request_timeout(Some(TIMEOUT))
        // So that the server can grant each host its own answers and nobody else's.
        .custom_inbox_prefix(format!("_INBOX.{}", settings.name))
        .reconnect_delay_callback(|attempt| {
            let longest = FIRST_PAUSE * 2_u32.saturating_pow(attempt.min(5) as u32);
            super::jitter(longest.min(LONGEST_PAUSE))
        });
    if settings.servers.iter().any(|server| server.starts_with("tls://")) {
        options = options.require_tls(true);
    }
    if let Some(path) = &settings.ca_file {
        // The client would not name it.
        std::fs::metadata(path).with_context(|| format!("could not read ca_file {}", path.display()))?;
        options = options.add_root_certificates(path.clone());
    }
    if let Some(from) = &settings.credentials {
        let text = secret::load_whole(from, "credentials")?;
        options = if text.contains("BEGIN NATS USER JWT") {
            options
                .credentials(&text)
                .context("could not read the credentials: they are no NATS .creds file")?
        } else {
            let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
            options.nkey(
                seed.context("could not find a seed (SU…) or a NATS .creds file in the credentials")?
                    .to_owned(),
            )
        };
    }
    let servers = settings.servers.join(",");
    let connected = timeout(2 * TIMEOUT, options.connect(settings.servers.clone())).await;
    let connected = connected.map_err(|_| anyhow!("no answer within {} s", 2 * TIMEOUT.as_secs()));
    connected.and_then(|done| done.map_err(|error| anyhow!(error))).map_err(|error| {
        let said = format!("{error:#}");
        error.context(text::fleet::no_connection(&servers, &said))
    })
}

/// The stream, which the first host makes.
async fn open_stream(js: &jetstream::Context) -> Result<stream::Stream> {
    let missing = match js.get_stream(STREAM).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // A server that stands alone refuses more than one copy.
    let made = match js.create_stream(stream_config(REPLICAS)).await {
        Err(_) => js.create_stream(stream_config(1)).await,
        made => made,
    };
    made.with_context(|| {
        format!(
            "could not open the stream {STREAM} ({missing}) nor make it: is JetStream on, and do this host's permissions \
             allow it (shield-agent init fleet writes them)?"
        )
    })
}

/// A message whose acknowledgement is awaited.
type Awaited = std::pin::Pin<Box<dyn Future<Output = (About, u64, Result<(), String>)> + Send>>;

/// Runs until the connection is of no more use; returns when it was lost and is there again.
pub(super) async fn run(fleet: &mut Fleet) -> Result<()> {
    fleet.is_reached = false;
    let nats = connect(&fleet.settings).await?;
    fleet.is_reached = true;
    let js = jetstream::ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT).build(nats.clone());
    let stream = open_stream(&js).await?;
    let config = &stream.cached_info().config;
    ensure!(
        config.max_messages_per_subject == 1 && config.subjects.iter().any(|subject| subject == message::ALL),
        "could not use the stream {STREAM}: it is not Shield's (subjects {:?}, {} messages a subject): remove it, or set another \
         account",
        config.subjects,
        config.max_messages_per_subject
    );
    let created_ms = (stream.cached_info().created.unix_timestamp_nanos() / 1_000_000) as i64;
    let last_sequence = stream.cached_info().state.last_sequence;

    let greeted = greet(fleet, &js, &stream).await?;
    let name = fleet.settings.name.clone();
    let from = fleet.owner.query(|engine, _| engine.remotes().position().map(str::to_owned)).await?;
    let deliver_policy = resume(from.as_deref(), created_ms, last_sequence);
    let mut opening = std::pin::pin!(open_messages(&nats, &stream, &name, deliver_policy));
    let mut messages = None;
    let mut reading = Reading { created_ms, greeted, delivered: 0 };

    reload(fleet).await?;
    fleet.outbox.connected(clock::now());
    let mut awaited: FuturesUnordered<Awaited> = FuturesUnordered::new();
    let mut in_flight = InFlight::default();
    let mut turn = tokio::time::interval(TURN);
    let connects = nats.statistics().connects.load(Ordering::Relaxed);
    let mut failures = 0;
    let mut heard_at = tokio::time::Instant::now();
    loop {
        if fleet.changes.overflowed() {
            reload(fleet).await?;
        }
        let room = IN_FLIGHT.saturating_sub(awaited.len());
        // One that waits for an acknowledgement in vain holds up no new ban, but the refused ones are told slowly.
        let most = if failures == 0 { room } else { room.min(1) };
        if failures < FAILURES || awaited.is_empty() {
            for Due { about, stamp, message } in fleet.outbox.due(most, clock::now()) {
                awaited.push(publish(&js, &mut in_flight, about, stamp, message));
            }
        }
        tokio::select! {
            // Beside the rest: while a cluster chooses who is to lead the consumer, the others can hear what is banned here.
            opened = &mut opening, if messages.is_none() => {
                messages = Some(opened?);
                heard_at = tokio::time::Instant::now();
                fleet.shown(|shown| (shown.is_connected, shown.server) = (true, nats.server_info().server_name));
                fleet.tell(state(fleet, failures));
            }
            chunk = next(&mut messages) => {
                let Some(chunk) = chunk else { bail!("could not go on reading the stream: it ended") };
                heard_at = tokio::time::Instant::now();
                take(fleet, chunk, &mut reading).await?;
            }
            change = fleet.changes.recv() => {
                let Some(change) = change else { bail!("the agent is stopping") };
                apply(fleet, change).await?;
                while let Ok(change) = fleet.changes.try_recv() {
                    apply(fleet, change).await?;
                }
            }
            Some((about, stamp, done)) = awaited.next(), if !awaited.is_empty() => match done {
                Ok(()) => {
                    failures = 0;
                    fleet.outbox.acknowledged(about, stamp);
                }
                Err(why) => {
                    failures += 1;
                    fleet.refused = why;
                    fleet.outbox.failed(about);
                }
            },
            _ = turn.tick() => {
                if messages.is_some() {
                    // Not at every message: it walks over all bans.
                    fleet.tell(state(fleet, failures));
                }
                let is_up = nats.connection_state() == async_nats::connection::State::Connected;
                if is_up && nats.statistics().connects.load(Ordering::Relaxed) > connects {
                    // Another server, or the same after a while: what it has of the stream is to be looked at anew.
                    return Ok(());
                }
                fleet.shown(|shown| shown.is_connected = is_up && messages.is_some());
                ensure!(
                    is_up || heard_at.elapsed() < QUIET,
                    "could not reach {} for {} s",
                    fleet.settings.servers.join(","),
                    QUIET.as_secs()
                );
                if is_up && awaited.is_empty() {
                    heard_at = tokio::time::Instant::now();
                }
            }
        }
    }
}

type Messages = ReadyChunks<pull::Stream>;

/// What the stream has from there on.
async fn open_messages(
    nats: &Nats,
    stream: &stream::Stream,
    name: &str,
    deliver_policy: DeliverPolicy,
) -> Result<Messages> {
    // What an earlier connection left, with another position. Mostly nothing.
    let _ = stream.delete_consumer(name).await;
    let patient = jetstream::ContextBuilder::new().timeout(CONSUMER_IN).build(nats.clone());
    let config = consumer_config(name, stream.cached_info().config.num_replicas, deliver_policy);
    let consumer = patient.create_consumer_on_stream(config, STREAM).await.context(
        "could not read the stream: do this host's permissions allow a consumer of its name, and has no other host the same \
         name?",
    )?;
    let messages = consumer.stream().heartbeat(HEARTBEAT).messages().await;
    Ok(messages.context("could not read the stream")?.ready_chunks(BATCH))
}

async fn next(messages: &mut Option<Messages>) -> Option<Vec<Arrived>> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}

fn state(fleet: &Fleet, failures: u32) -> PartState {
    if failures >= FAILURES {
        return PartState::Degraded { reason: text::fleet::refused(&fleet.settings.name, &fleet.refused) };
    }
    if !fleet.is_connected() {
        return PartState::Degraded { reason: text::fleet::cut_off(&fleet.settings.servers) };
    }
    PartState::Active { detail: text::fleet::taking_part(&fleet.settings.name, &fleet.settings.servers) }
}

fn publish(
    js: &jetstream::Context,
    in_flight: &mut InFlight,
    about: About,
    stamp: u64,
    message: message::Outgoing,
) -> Awaited {
    let js = js.clone();
    let latest = in_flight.begin(&message.subject, stamp);
    Box::pin(async move {
        let send = || async {
            let acknowledged = js.publish(message.subject.clone(), message.payload.clone().into()).await?;
            acknowledged.await.map(drop)
        };
        (about, stamp, until_acknowledged(send, || latest.holds()).await)
    })
}

/// What the greeting showed.
#[derive(Debug, Clone, Copy)]
struct Greeted {
    /// How far this host's wall clock is ahead of the server's.
    ahead_ms: i64,
    /// The server's time then.
    at_ms: i64,
}

/// Says that this host is there, and learns from the server's copy how far the clocks are apart.
async fn greet(fleet: &mut Fleet, js: &jetstream::Context, stream: &stream::Stream) -> Result<Greeted> {
    let subject = message::host_subject(&fleet.settings.name);
    let known_stamp = match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(last) => message::read(&last.subject, &last.payload).map_or(0, |heard| heard.stamp),
        Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => 0,
        Err(error) => return Err(error).context("could not read this host's last message in the stream"),
    };
    fleet.outbox.known(known_stamp);
    let now = clock::now();
    let stamp = fleet.outbox.next_stamp(now);
    let hello = message::hello(&fleet.settings.name, stamp, now.wall_ms);
    let (.., sent) = publish(js, &mut InFlight::default(), About::Complete, stamp, hello).await;
    if let Err(why) = sent {
        bail!("{}", text::fleet::refused(&fleet.settings.name, &why));
    }
    let copy = stream.get_last_raw_message_by_subject(&subject).await;
    let copy = copy.context("could not read back this host's own message")?;
    let at_ms = (copy.time.unix_timestamp_nanos() / 1_000_000) as i64;
    Ok(Greeted { ahead_ms: now.wall_ms - at_ms, at_ms })
}

/// Where to read on. From the beginning where the stream was made anew, or lost what this host has read.
fn resume(position: Option<&str>, created_ms: i64, last_sequence: u64) -> DeliverPolicy {
    let read = position.and_then(|position| {
        let (created, sequence) = position.split_once(':')?;
        Some((created.parse::<i64>().ok()?, sequence.parse::<u64>().ok()?))
    });
    match read {
        Some((created, sequence)) if created == created_ms && sequence <= last_sequence => {
            DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 }
        }
        _ => DeliverPolicy::All,
    }
}

type Arrived = std::result::Result<jetstream::Message, pull::MessagesError>;

/// Where reading stands.
#[derive(Debug)]
struct Reading {
    created_ms: i64,
    greeted: Greeted,
    /// The last message's number in the consumer.
    delivered: u64,
}

/// Hands what arrived to the engine, and waits until it has taken it in.
async fn take(fleet: &mut Fleet, chunk: Vec<Arrived>, reading: &mut Reading) -> Result<()> {
    let Reading { created_ms, greeted, .. } = *reading;
    let mut remote = Remote::default();
    let mut failed = None;
    for arrived in chunk {
        let message = match arrived {
            Ok(message) => message,
            Err(error) => {
                failed = Some(anyhow!(error).context("could not go on reading the stream"));
                break;
            }
        };
        let info =
            message.info().map_err(|error| anyhow!("could not read where a message stands: {error}"))?;
        if info.consumer_sequence != reading.delivered + 1 {
            failed =
                Some(anyhow!("could not read the stream without a gap: it is read again from before it"));
            break;
        }
        reading.delivered = info.consumer_sequence;
        remote.position = Some(format!("{created_ms}:{}", info.stream_sequence));
        let published_ms = (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
        match message::read(&message.subject, &message.payload) {
            Ok(heard) if heard.origin.name() == fleet.settings.name => {}
            Ok(heard) => {
                let Some(said) = heard.said else { continue };
                let server_now_ms = clock::now().wall_ms - greeted.ahead_ms;
                remote.statements.push(Statement {
                    origin: heard.origin,
                    stamp: heard.stamp,
                    ahead_ms: heard.sent_ms.saturating_sub(published_ms).saturating_sub(greeted.ahead_ms),
                    age_ms: u64::try_from(server_now_ms - published_ms).unwrap_or(0),
                    is_replayed: published_ms < greeted.at_ms,
                    said,
                });
            }
            Err(why) => fleet.shown(|shown| match why {
                Unread::Newer => shown.newer += 1,
                Unread::Subject | Unread::Payload => shown.unread += 1,
            }),
        }
    }
    if remote != Remote::default() {
        fleet.shown(|shown| shown.heard += remote.statements.len() as u64);
        fleet.owner.send(Message::Remote(remote));
        // No faster than the engine takes it in.
        fleet.owner.query(|_, _| ()).await?;
    }
    failed.map_or(Ok(()), Err)
}

/// Takes over the bans in force from the engine.
async fn reload(fleet: &mut Fleet) -> Result<()> {
    let mut own = own_bans::in_force(&fleet.owner).await?;
    for (client, ban) in &mut own {
        if let Some(known) = fleet.whys.get(client) {
            ban.why.clone_from(known);
        }
    }
    fleet.outbox.set_all(own);
    lifts(fleet).await
}

async fn lifts(fleet: &mut Fleet) -> Result<()> {
    let lifts = fleet
        .owner
        .query(|engine, _| {
            let lifts = engine.remotes().own_lifts();
            lifts.map(|(client, lift)| (client, lift.at_ms, lift.note.clone())).collect::<Vec<_>>()
        })
        .await?;
    fleet.outbox.set_lifts(lifts);
    Ok(())
}

pub(super) async fn apply(fleet: &mut Fleet, change: Change) -> Result<()> {
    match change {
        Change::Banned(client, ban) => {
            fleet.remember(client, &ban.why);
            fleet.outbox.banned(client, ban);
        }
        Change::Extended(client, ends) => fleet.outbox.extended(client, ends),
        Change::Expired(client) => {
            fleet.whys.remove(&client);
            fleet.outbox.expired(client);
        }
        Change::Withdrawn(client) => {
            fleet.whys.remove(&client);
            fleet.outbox.withdrawn(client);
        }
        Change::Unbanned(client) => {
            fleet.whys.remove(&client);
            fleet.outbox.withdrawn(client);
            lifts(fleet).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_on_where_it_was_unless_the_stream_is_another() {
        let from = |position, created, last| match resume(position, created, last) {
            DeliverPolicy::ByStartSequence { start_sequence } => Some(start_sequence),
            _ => None,
        };
        assert_eq!(from(Some("5:10"), 5, 12), Some(11));
        assert_eq!(from(Some("5:10"), 5, 10), Some(11), "nothing new yet");
        assert_eq!(from(Some("5:10"), 6, 12), None, "made anew");
        assert_eq!(from(Some("5:10"), 5, 9), None, "it lost what was read");
        assert_eq!((from(None, 5, 9), from(Some("x"), 5, 9)), (None, None));
    }
}
