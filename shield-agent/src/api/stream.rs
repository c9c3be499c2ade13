//! `/events`: server-sent events. A stream gets each notice once, or the number of those it missed, and a snapshot a second:
//! the newest one if the stream is slow.

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

/// One event stream.
pub(crate) struct EventStream {
    ready: VecDeque<Event>,
    notices: broadcast::Receiver<Arc<Published>>,
    snapshots: watch::Receiver<Option<Arc<str>>>,
    _slot: OwnedSemaphorePermit,
}

impl EventStream {
    /// Starts with the snapshot `first` (JSON), if there is one, and the notices that `subscription` missed.
    pub(crate) fn new(
        subscription: Subscription,
        first: Option<&str>,
        mut snapshots: watch::Receiver<Option<Arc<str>>>,
        slot: OwnedSemaphorePermit,
    ) -> EventStream {
        snapshots.mark_unchanged();
        let mut ready = VecDeque::new();
        ready.extend(first.map(snapshot));
        if subscription.gap {
            ready.push_back(gap(0));
        }
        ready.extend(subscription.missed.iter().map(|published| notice(published)));
        EventStream { ready, notices: subscription.live, snapshots, _slot: slot }
    }

    /// Ends when the agent stops.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((Ok(event), events))
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
