//! `/events`: server-sent events. Every stream gets every notice once, or is told how many it missed; and a snapshot
//! a second, the newest one when it is slow.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::Event;
use futures::Stream;
use futures::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};

use super::feed::{Published, Subscription};
use super::types::Gap;

/// One watcher's stream.
pub(crate) struct Watcher {
    ready: VecDeque<Event>,
    notices: broadcast::Receiver<Arc<Published>>,
    snapshots: watch::Receiver<Option<Arc<str>>>,
    _slot: OwnedSemaphorePermit,
}

impl Watcher {
    /// A stream that starts with `first` (a snapshot's JSON, when there is one) and what `subscription` missed.
    pub(crate) fn new(
        subscription: Subscription,
        first: Option<&str>,
        mut snapshots: watch::Receiver<Option<Arc<str>>>,
        slot: OwnedSemaphorePermit,
    ) -> Watcher {
        snapshots.mark_unchanged();
        let mut ready = VecDeque::new();
        ready.extend(first.map(snapshot));
        if subscription.gap {
            ready.push_back(gap(0));
        }
        ready.extend(subscription.missed.iter().map(|published| notice(published)));
        Watcher { ready, notices: subscription.live, snapshots, _slot: slot }
    }

    /// As a stream that ends when the agent stops.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        tokio::select! {
            received = self.notices.recv() => match received {
                Ok(published) => Some(notice(&published)),
                Err(RecvError::Lagged(missed)) => Some(gap(missed)),
                Err(RecvError::Closed) => None,
            },
            changed = self.snapshots.changed() => {
                changed.ok()?;
                self.snapshots.borrow_and_update().as_deref().map(snapshot)
            }
        }
    }
}

fn notice(published: &Published) -> Event {
    Event::default().event("notice").id(published.event.id.to_string()).data(&published.json)
}

fn snapshot(json: &str) -> Event {
    Event::default().event("snapshot").data(json)
}

fn gap(missed: u64) -> Event {
    let json = serde_json::to_string(&Gap { missed }).expect("a gap is one number");
    Event::default().event("gap").data(json)
}
